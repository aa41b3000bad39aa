"""The choices that a network is made of, and the shapes that have a name.

Which family takes which:

| family         | norm  | positions              | MLP    | biases  | key heads   | QK-norm |
|----------------|-------|------------------------|--------|---------|-------------|---------|
| GPT-2          | layer | learned                | GELU   | all     | as many     | no      |
| Llama, SmolLM2 | RMS   | rotary, also scaled    | SwiGLU | none    | fewer (GQA) | no      |
| Qwen2, Qwen2.5 | RMS   | rotary                 | SwiGLU | q, k, v | fewer       | no      |
| Qwen3          | RMS   | rotary, own head width | SwiGLU | none    | fewer       | yes     |

The output head is the input embedding ("tied") or a matrix of its own in all of them; small models
are mostly tied. The defaults of `Architecture` are GPT-2's.

Sources: Radford et al. (2019) for GPT-2; Touvron et al. (2023) and Grattafiori et al. (2024) for
Llama; Yang et al. (2024, 2025) for Qwen2.5 and Qwen3; Allal et al. (2025) for SmolLM2.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from model.errors import CheckpointError, UsageError
from model.rope import DivisorScaling, Llama3Scaling, Rope, is_number

Norm = Literal["layer", "rms"]
MLPKind = Literal["gelu", "swiglu"]
Bias = Literal["all", "qkv", "none"]

MOST_POSITIONS = 2**20
"""Of a context: what is longer is a mistake or an attack, whose table would fill the memory."""
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Architecture:
    """The choices that a network is made of; resolved when it is built."""

    vocab_size: int
    """Number of token ids, special tokens included."""
    context_length: int
    """Largest number of tokens in one sequence."""
    n_layer: int
    """Number of transformer blocks."""
    n_head: int
    """Attention heads of a block."""
    n_embd: int
    """Width of the residual stream."""
    tied: bool = True
    """Whether the output head is the input embedding or a matrix of its own."""
    n_kv_head: int = 0
    """Heads that have keys and values; query heads share them in groups. 0 is `n_head`."""
    head_dim: int = 0
    """Width of a head. 0 is n_embd / n_head."""
    mlp_width: int = 0
    """Width inside the MLP. 0 is 4 × n_embd."""
    norm: Norm = "layer"
    """Layer norm, with a bias, or RMS norm, without."""
    norm_eps: float = 1e-5
    """What is added to the variance, or to the mean square."""
    mlp: MLPKind = "gelu"
    """GELU in its tanh form, or SwiGLU: silu(gate) × up (Shazeer, 2020)."""
    bias: Bias = "all"
    """Which projections have a bias: all, those of queries, keys and values, or none."""
    qk_norm: bool = False
    """Whether each head's query and key pass an RMS norm before they are rotated."""
    rope: Rope | None = None
    """Rotary positions; None is a learned embedding of each position."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            _check_whole(name, getattr(self, name), at_least=1)
        for name in ("n_kv_head", "head_dim", "mlp_width"):
            _check_whole(name, getattr(self, name), at_least=0)
        if self.context_length > MOST_POSITIONS:
            raise UsageError(
                f"context_length is {self.context_length}; it must be at most {MOST_POSITIONS}"
            )
        if not self.head_dim and self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}; n_head must divide n_embd"
            )
        resolved = {
            "n_kv_head": self.n_kv_head or self.n_head,
            "head_dim": self.head_dim or self.n_embd // self.n_head,
            "mlp_width": self.mlp_width or 4 * self.n_embd,
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        if self.n_head % self.n_kv_head:
            raise UsageError(
                f"n_head is {self.n_head} and n_kv_head is {self.n_kv_head}; "
                "n_kv_head must divide n_head"
            )
        for name, allowed in (("norm", Norm), ("mlp", MLPKind), ("bias", Bias)):
            if getattr(self, name) not in get_args(allowed):
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; "
                    f"it must be one of {', '.join(get_args(allowed))}"
                )
        for name in ("tied", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if not is_number(self.norm_eps) or not 0 < self.norm_eps < 1:
            raise UsageError(f"norm_eps is {self.norm_eps!r}; it must be between 0 and 1")
        if self.rope is not None:
            self._check_rope(self.rope)

    def _check_rope(self, rope: Rope) -> None:
        if not isinstance(rope, Rope):
            raise UsageError(f"rope is {rope!r}; it must be None or a Rope")
        if self.head_dim % 2:
            raise UsageError(f"head_dim is {self.head_dim}; rotary positions need an even number")
        if isinstance(rope.scaling, DivisorScaling):
            count = len(rope.scaling.divisors)
            if count != self.head_dim // 2:
                raise UsageError(
                    f"rope.scaling has {count} divisors; "
                    f"a head of {self.head_dim} needs {self.head_dim // 2}"
                )

    @property
    def query_width(self) -> int:
        """Of the queries of all heads."""
        return self.n_head * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of the keys of all heads, and of the values."""
        return self.n_kv_head * self.head_dim

    @property
    def is_gpt2(self) -> bool:
        """Whether all choices are GPT-2's, whatever its size."""
        choices = (self.norm, self.norm_eps, self.mlp, self.bias, self.qk_norm, self.rope)
        widths = (self.n_kv_head, self.n_head * self.head_dim, self.mlp_width)
        return choices == ("layer", 1e-5, "gelu", "all", False, None) and widths == (
            self.n_head,
            self.n_embd,
            4 * self.n_embd,
        )

    def parameter_count(self) -> int:
        """Number of parameters of such a network, a tied head counted once."""
        width, norm_size = self.n_embd, self.n_embd * (2 if self.norm == "layer" else 1)
        qkv = self.query_width + 2 * self.kv_width
        ups = self.mlp_width * (2 if self.mlp == "swiglu" else 1)
        block = width * (qkv + self.query_width) + width * (ups + self.mlp_width) + 2 * norm_size
        block += {"all": qkv + width + ups + width, "qkv": qkv, "none": 0}[self.bias]
        block += 2 * self.head_dim if self.qk_norm else 0
        embedding = self.vocab_size * width
        positions = self.context_length * width if self.rope is None else 0
        heads = embedding if self.tied else 2 * embedding
        return heads + positions + self.n_layer * block + norm_size

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rope": None if self.rope is None else self.rope.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "Architecture":
        """Read what `to_dict` wrote, or what format 1 did: the first six fields.

        Raises:
            CheckpointError: a field is missing, unknown or out of range; names `source`.
        """
        known = {f.name for f in fields(cls)}
        needed = known if values.keys() & (known - _FORMAT_1) else _FORMAT_1
        unknown, missing = set(values) - known, needed - set(values)
        if unknown or missing:
            raise CheckpointError(
                f"{source}: architecture has unknown fields {sorted(unknown)} "
                f"and lacks {sorted(missing)}"
            )
        try:
            rope = values.get("rope")
            return cls(**{**values, "rope": None if rope is None else Rope.from_dict(rope)})
        except (UsageError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{source}: architecture: {error}") from error


_FORMAT_1 = frozenset(("vocab_size", "context_length", "n_layer", "n_head", "n_embd", "tied"))
"""Fields of an architecture when there was one family."""


def _check_whole(name: str, value: object, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= _MOST:
        raise UsageError(
            f"{name} is {value!r}; it must be a whole number of at least {at_least}"
            + (f" and at most {_MOST}" if isinstance(value, int) and value > _MOST else "")
        )


def _modern(*shape: int, **choices: Any) -> Architecture:
    """Llama's choices, from which the other families differ in one or two."""
    names = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
    settings: dict[str, Any] = dict(zip(names, shape, strict=True))
    return Architecture(**settings, norm="rms", mlp="swiglu", bias="none", **choices)


PRESETS: dict[str, Architecture] = {
    # Radford et al., table 2, with the parameter counts that OpenAI's files really hold.
    "gpt2-124m": Architecture(50257, 1024, n_layer=12, n_head=12, n_embd=768),
    "gpt2-355m": Architecture(50257, 1024, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-774m": Architecture(50257, 1024, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-1558m": Architecture(50257, 1024, n_layer=48, n_head=25, n_embd=1600),
    "smollm2-135m": _modern(
        *(49152, 8192, 30, 9, 576), n_kv_head=3, mlp_width=1536, rope=Rope(100_000.0)
    ),
    "smollm2-360m": _modern(
        *(49152, 8192, 32, 15, 960), n_kv_head=5, mlp_width=2560, rope=Rope(100_000.0)
    ),
    "llama-3.2-1b": _modern(
        *(128256, 131072, 16, 32, 2048),
        n_kv_head=8,
        mlp_width=8192,
        rope=Rope(500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
    ),
    "qwen2.5-0.5b": Architecture(
        *(151936, 32768, 24, 14, 896),
        n_kv_head=2,
        mlp_width=4864,
        norm="rms",
        norm_eps=1e-6,
        mlp="swiglu",
        bias="qkv",
        rope=Rope(1_000_000.0),
    ),
    "qwen3-0.6b": _modern(
        *(151936, 40960, 28, 16, 1024),
        n_kv_head=8,
        head_dim=128,
        mlp_width=3072,
        norm_eps=1e-6,
        qk_norm=True,
        rope=Rope(1_000_000.0),
    ),
    # The base from scratch: 13,989,888 parameters, 28 MB in bf16.
    "small": Architecture(8192, 512, n_layer=6, n_head=6, n_embd=384),
    # The same number of parameters, to within half a per cent, from today's choices.
    "small-modern": _modern(8192, 512, 6, 6, 384, mlp_width=1056, qk_norm=True, rope=Rope()),
    # Trains in seconds; for trying things out and for tests.
    "tiny": Architecture(512, 128, n_layer=2, n_head=4, n_embd=64),
}


def preset(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"--preset is {name!r}; it must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
