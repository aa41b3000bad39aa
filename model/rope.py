"""Rotary positions as a choice: how fast each pair of a head turns, and how that is scaled."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from model.errors import UsageError


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al., "Extending Context Window", 2023)."""

    factor: float

    kind = "linear"


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotations divided by a factor, fast ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    """Rotations that turn less often than this within `original_context` are slow."""
    high_freq_factor: float
    """Those that turn more often than this are fast."""
    original_context: int

    kind = "llama3"


@dataclass(frozen=True)
class DivisorScaling:
    """Each frequency divided by a number of its own, as GGUF's `rope_freqs` has them."""

    divisors: tuple[float, ...]
    """head_dim / 2 of them."""

    kind = "divisors"


Scaling = LinearScaling | Llama3Scaling | DivisorScaling
_SCALINGS: dict[str, type[Scaling]] = {
    kind.kind: kind for kind in (LinearScaling, Llama3Scaling, DivisorScaling)
}


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al., "RoFormer", 2021); pairs are the halves of a head."""

    base: float = 10_000.0
    """The slowest pair turns once in 2π × `base` tokens, about."""
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        numbers = {"rope.base": self.base}
        if self.scaling is not None:
            numbers |= {
                f"rope.scaling.{name}": value
                for name, value in asdict(self.scaling).items()
                if name != "divisors"
            }
            for value in getattr(self.scaling, "divisors", ()):
                numbers["rope.scaling.divisors"] = value
        for name, value in numbers.items():
            if not is_number(value) or not 0 < value < 1e12:
                raise UsageError(f"{name} is {value!r}; it must be a number above 0")
        if isinstance(self.scaling, Llama3Scaling):
            low, high = self.scaling.low_freq_factor, self.scaling.high_freq_factor
            if low >= high:
                raise UsageError(
                    f"rope.scaling.low_freq_factor is {low} and high_freq_factor {high}; "
                    "the first must be the smaller one"
                )

    def to_dict(self) -> dict[str, Any]:
        scaling = self.scaling
        if scaling is None:
            return {"base": self.base, "scaling": None}
        return {"base": self.base, "scaling": {"kind": scaling.kind, **asdict(scaling)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Rope":
        """Read what `to_dict` wrote.

        Raises:
            UsageError: a value is out of range.
            TypeError, KeyError: a field is missing or unknown.
        """
        scaling = None
        if values["scaling"] is not None:
            own = dict(values["scaling"])
            scaling = _SCALINGS[own.pop("kind")](**own)
            if isinstance(scaling, DivisorScaling):
                scaling = DivisorScaling(tuple(scaling.divisors))
        unknown = values.keys() - {"base", "scaling"}
        if unknown:
            raise TypeError(f"rope has unknown fields {sorted(unknown)}")
        return cls(values["base"], scaling)


def frequencies(rope: Rope, pairs: int) -> Tensor:
    """Radians by which each pair turns from one token to the next, (pairs,) fp32.

    In fp32 throughout, as the networks were trained: at far positions, a more exact frequency would
    be another angle.
    """
    exponents = torch.arange(0, 2 * pairs, 2, dtype=torch.int64).float() / (2 * pairs)
    plain = 1.0 / (rope.base**exponents)
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / factor
        case DivisorScaling(divisors):
            return plain / torch.tensor(divisors)
        case Llama3Scaling():
            return _llama3(plain, rope.scaling)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Grattafiori et al., "The Llama 3 Herd of Models" (2024); the formula is in their code."""
    wavelengths = 2 * math.pi / plain
    turns = scaling.original_context / wavelengths  # in this order, which gives the same bits
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def is_number(value: object) -> bool:
    """Whether it is a whole or a floating-point number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
