"""Types of settings, and what request bodies share with them."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr, StringConstraints
from pydantic_settings import NoDecode

from app.paths import path_prefix

MOST_BATCH = 4096
"""Upper bound of `max_batch`, and so of the lists in requests."""
LEAST_KEY = 16
"""Characters of an API key that somebody thought up."""
_VISIBLE = set(map(chr, range(0x21, 0x7F)))


def probability_band(value: Sequence[Any]) -> tuple[float, float]:
    """Two probabilities, the lower one first.

    Raises:
        ValueError: it is something else.
    """
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high <= 1:
        raise ValueError("must be two probabilities, LOW and HIGH, with 0 <= LOW < HIGH <= 1")
    return low, high


def _split(value: Any) -> Any:
    """`a, b` are two, as flags and variables have them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _band(value: Any) -> Any:
    return value if value is None else probability_band(_split(value))


def _usable_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if len(text) < LEAST_KEY or not set(text) <= _VISIBLE:
        raise ValueError(
            f"must be at least {LEAST_KEY} characters of ASCII without spaces; "
            "`openssl rand -hex 32` makes a good one"
        )
    return key


_Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:\[\]-]{1,253}$", to_lower=True)]
_Origin = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9._\[\]-]+(:[0-9]+)?)$",
        to_lower=True,
    ),
]
Hosts = Annotated[tuple[_Host, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[_Origin, ...], NoDecode, BeforeValidator(_split)]
RootPath = Annotated[str, AfterValidator(path_prefix)]
Band = Annotated[tuple[float, float] | None, NoDecode, BeforeValidator(_band)]
ApiKey = Annotated[SecretStr, AfterValidator(_usable_key)]
