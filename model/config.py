"""The shape of a GPT, and the shapes that have a name.

The four `gpt2-*` presets are those of Radford et al., "Language Models are Unsupervised
Multitask Learners" (2019), table 2, with the parameter counts that OpenAI's files really hold.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from model.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class GPTConfig:
    """Architecture of a GPT-2 style network."""

    vocab_size: int
    """Number of token ids, the end token included."""
    context_length: int
    """Largest number of tokens in one sequence; there is one learnt position for each."""
    n_layer: int
    """Number of transformer blocks."""
    n_head: int
    """Attention heads per block; divides `n_embd`."""
    n_embd: int
    """Width of the residual stream."""
    tied: bool = True
    """Whether the output head is the input embedding (as in GPT-2) or a matrix of its own."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}; n_head must divide n_embd"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> "GPTConfig":
        """Read a configuration that `to_dict` wrote.

        Raises:
            CheckpointError: a field is missing, unknown or out of range; names `source`.
        """
        known = {f.name for f in fields(cls)}
        unknown, missing = set(values) - known, known - set(values)
        if unknown or missing:
            raise CheckpointError(
                f"{source}: architecture has unknown fields {sorted(unknown)} "
                f"and lacks {sorted(missing)}"
            )
        try:
            return cls(**values)
        except UsageError as error:
            raise CheckpointError(f"{source}: {error}") from error


PRESETS: dict[str, GPTConfig] = {
    "gpt2-124m": GPTConfig(50257, 1024, n_layer=12, n_head=12, n_embd=768),
    "gpt2-355m": GPTConfig(50257, 1024, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-774m": GPTConfig(50257, 1024, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-1558m": GPTConfig(50257, 1024, n_layer=48, n_head=25, n_embd=1600),
    # The bundled base: 13,989,888 parameters, 28 MB in bf16.
    "small": GPTConfig(8192, 512, n_layer=6, n_head=6, n_embd=384),
    # Trains in seconds; for trying things out and for tests.
    "tiny": GPTConfig(512, 128, n_layer=2, n_head=4, n_embd=64),
}


def preset(name: str) -> GPTConfig:
    """The configuration called `name`.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"--preset is {name!r}; it must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
