"""Configurations: what is refused, and in which words."""

import dataclasses
from typing import Any

import pytest

from model.architecture import PRESETS, Architecture, preset
from model.errors import CheckpointError, UsageError

GOOD = {"vocab_size": 10, "context_length": 8, "n_layer": 1, "n_head": 2, "n_embd": 4}


@pytest.mark.parametrize("field", GOOD)
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_sizes_are_whole_numbers(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{field} is {value!r}; it must be a whole number"):
        Architecture(**{**GOOD, field: value})


def test_heads_divide_the_width() -> None:
    with pytest.raises(UsageError, match="n_embd is 4 and n_head is 3"):
        Architecture(**{**GOOD, "n_head": 3})


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture(**GOOD).n_layer = 2  # type: ignore[misc]


def test_round_trip() -> None:
    config = Architecture(**GOOD, tied=False)
    assert Architecture.from_dict(config.to_dict(), "config.json") == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ropes": True}, r"config\.json: .*unknown fields \['ropes'\]"),
        ({"rope": True}, r"config\.json: architecture: .*bool"),
        ({"n_layer": None}, r"config\.json: architecture: n_layer is None"),
        ({"n_head": 3, "head_dim": 0}, r"config\.json: .*n_head must divide"),
    ],
)
def test_a_stored_configuration_that_is_wrong(change: dict[str, Any], said: str) -> None:
    values = {**Architecture(**GOOD).to_dict(), **change}
    with pytest.raises(CheckpointError, match=said):
        Architecture.from_dict(values, "config.json")


def test_a_stored_configuration_that_lacks_a_field() -> None:
    values = Architecture(**GOOD).to_dict()
    del values["tied"]
    with pytest.raises(CheckpointError, match=r"config\.json: .*lacks \['tied'\]"):
        Architecture.from_dict(values, "config.json")


def test_presets() -> None:
    for name in PRESETS:
        assert preset(name) is PRESETS[name]
    with pytest.raises(UsageError, match=r"--preset is 'gpt5'; it must be one of gpt2-124m, .*"):
        preset("gpt5")
