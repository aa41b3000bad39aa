"""Names of format 1: checkpoints, adapters and saved runs are read through one table."""

import pytest
from safetensors import safe_open

from model.checkpoint import load_adapter, load_base
from model.checkpoint.names import current_name
from tests.e2e.server import SCRATCH


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wte.weight", "embedding.weight"),
        ("wpe.weight", "positions.weight"),
        ("ln_f.bias", "norm.bias"),
        ("lm_head.weight", "head.weight"),
        ("h.0.ln_1.weight", "blocks.0.attention_norm.weight"),
        ("h.11.ln_2.bias", "blocks.11.mlp_norm.bias"),
        ("h.3.attn.c_attn.weight", "blocks.3.attention.qkv.weight"),
        ("h.3.attn.c_proj.bias", "blocks.3.attention.out.bias"),
        ("h.3.mlp.c_fc.weight", "blocks.3.mlp.up.weight"),
        ("h.3.mlp.c_proj.weight", "blocks.3.mlp.down.weight"),
        ("model.h.1.ln_1.weight", "model.blocks.1.attention_norm.weight"),
        ("lora.a.h/2/attn/c_attn", "lora.a.blocks/2/attention/qkv"),
        ("lora.b.h/2/mlp/c_proj", "lora.b.blocks/2/mlp/down"),
        ("head.score.weight", "head.score.weight"),
        ("score.bias", "score.bias"),
        ("blocks.3.attention.qkv.weight", "blocks.3.attention.qkv.weight"),
    ],
)
def test_each_old_name_has_one_of_today(old: str, new: str) -> None:
    assert current_name(old) == new
    assert current_name(new) == new


def test_the_models_from_scratch_are_of_format_1_and_load() -> None:
    with safe_open(SCRATCH / "base" / "model.safetensors", "pt") as file:
        assert "wte.weight" in set(file.keys())
    base = load_base(SCRATCH / "base")
    for name in ("spam", "instruct"):
        adapter = load_adapter(SCRATCH / name, base)
        assert adapter.lora.settings.targets == ("qkv", "out", "up", "down")
    assert adapter.template is not None
    assert adapter.template.name == "alpaca"
    assert base.template is None
