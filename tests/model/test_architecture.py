"""Configurations: what is refused, and in which words."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from model.architecture import PRESETS, Architecture, preset
from model.errors import CheckpointError, UsageError
from model.rope import DivisorScaling, LinearScaling, Llama3Scaling, Rope
from model.transformer import Transformer

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


MODERN = {
    **GOOD,
    "norm": "rms",
    "mlp": "swiglu",
    "bias": "none",
    "n_kv_head": 1,
    "head_dim": 6,
    "rope": Rope(500.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_parameters_of_a_preset_are_counted_without_building_it(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameter_count()


def test_parameters_of_published_models() -> None:
    counts = {
        "smollm2-135m": 134_515_008,
        "smollm2-360m": 361_821_120,
        "llama-3.2-1b": 1_235_814_400,
        "qwen2.5-0.5b": 494_032_768,
        "qwen3-0.6b": 596_049_920,
    }
    assert {name: PRESETS[name].parameter_count() for name in counts} == counts


def test_small_modern_is_as_large_as_small() -> None:
    small, modern = (PRESETS[name].parameter_count() for name in ("small", "small-modern"))
    assert abs(modern / small - 1) < 0.005


@pytest.mark.parametrize("choice", ["norm", "mlp", "bias", "qk_norm", "tied", "rope", "head_dim"])
def test_each_choice_is_counted(choice: str) -> None:
    values: dict[str, Any] = {
        "norm": "rms",
        "mlp": "swiglu",
        "bias": "qkv",
        "qk_norm": True,
        "tied": False,
        "rope": Rope(),
        "head_dim": 6,
    }
    config = Architecture(**{**GOOD, choice: values[choice]})
    with torch.device("meta"):
        built = sum(p.numel() for p in Transformer(config).parameters())
    assert built == config.parameter_count()


@pytest.mark.parametrize(
    "rope",
    [
        Rope(),
        Rope(1e6, LinearScaling(4.0)),
        Rope(500.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
        Rope(1e4, DivisorScaling((1.0, 2.0, 8.0))),
    ],
)
def test_rotary_positions_make_the_round_trip(rope: Rope) -> None:
    config = Architecture(**{**MODERN, "rope": rope})
    stored = json.loads(json.dumps(config.to_dict()))
    assert Architecture.from_dict(stored, "config.json") == config


def test_what_format_1_lacks_is_gpt2s() -> None:
    old = {**GOOD, "tied": True}
    assert Architecture.from_dict(old, "config.json") == Architecture(**GOOD)
    assert Architecture(**GOOD).is_gpt2
    assert not Architecture(**MODERN).is_gpt2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_kv_head": 3}, "n_kv_head is 3"),
        ({"head_dim": 5}, "head_dim is 5; rotary positions need an even"),
        ({"norm": "batch"}, "norm is 'batch'; it must be one of layer, rms"),
        ({"mlp": None}, "mlp is None; it must be one of gelu, swiglu"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"qk_norm": 1}, "qk_norm is 1; it must be true or false"),
        ({"norm_eps": 0}, "norm_eps is 0"),
        ({"norm_eps": "small"}, "norm_eps is 'small'"),
        ({"context_length": 2**21}, "context_length is 2097152; it must be at most 1048576"),
        ({"n_embd": 2**31}, "n_embd is 2147483648; it must be a whole number"),
        ({"rope": "rotary"}, "rope is 'rotary'"),
    ],
)
def test_choices_that_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Architecture(**{**MODERN, **change})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rope(0.0), r"rope\.base is 0\.0"),
        (lambda: Rope(1e4, LinearScaling(-1.0)), r"rope\.scaling\.factor is -1\.0"),
        (lambda: Rope(1e4, Llama3Scaling(8.0, 4.0, 4.0, 64)), "the first must be the smaller"),
        (lambda: Rope(1e4, DivisorScaling((1.0, float("nan")))), "divisors is nan"),
        (
            lambda: Architecture(**{**MODERN, "rope": Rope(1e4, DivisorScaling((1.0,)))}),
            "1 divisors; a head of 6 needs 3",
        ),
    ],
)
def test_rotary_positions_that_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    "rope", [{"base": 1e4}, {"base": 1e4, "scaling": {"kind": "yarn"}}, [], 3, {"scaling": None}]
)
def test_stored_rotary_positions_that_are_wrong(rope: Any) -> None:
    values = {**Architecture(**MODERN).to_dict(), "rope": rope}
    with pytest.raises(CheckpointError, match=r"config\.json: architecture: "):
        Architecture.from_dict(values, "config.json")
