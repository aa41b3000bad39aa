"""Adapters: merged equals applied, a mixed batch equals each row alone, and PEFT agrees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import Base, load_adapter, load_base, save_adapter
from model.convert.peft_write import write_peft
from model.kv_cache import CacheStep, KVCache
from model.lora import AdapterRows, LoRA, LoRASettings
from model.transformer import Transformer
from tests.model.engines import Span
from tests.parity.families import CASES, new_peer, write_peer
from training.cli import main

TOKENS = [5, 17, 250, 299, 0, 44]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, write_hf: Any) -> tuple[Any, Base]:
    root = tmp_path_factory.mktemp("lora")
    peer = write_hf(root / "hf", n_layer=2)
    assert main(["import", str(root / "hf"), "--out", str(root / "base")]) == 0
    return peer, load_base(root / "base")


@torch.no_grad()
def new_lora(model: Transformer, seed: int, settings: LoRASettings | None = None) -> LoRA:
    """An adapter that changes much: A and B are random, B is not zero."""
    lora = LoRA(model.config, settings or LoRASettings(rank=4, alpha=8.0)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return lora


@torch.no_grad()
def logits(model: Transformer, tokens: list[int], lora: LoRA | None = None) -> Tensor:
    """(time, vocab)"""
    return model.logits(model(torch.tensor([tokens]), adapters=lora))[0]


def assert_close(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def assert_apart(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() > 0.05 * b.abs().max()


TARGETS = ("qkv", "q", "k", "v", "out", "up", "down")


@pytest.mark.parametrize(
    "targets", [(), ("q", "v", "down"), *((target,) for target in TARGETS)], ids=str
)
def test_merged_equals_applied(
    pair: tuple[Any, Base], tmp_path: Path, targets: tuple[str, ...]
) -> None:
    base = pair[1]
    lora = new_lora(base.model, 1, LoRASettings(rank=4, alpha=8.0, targets=targets))
    merged = load_base(base.path).model
    lora.merge_into(merged)
    applied = logits(base.model, TOKENS, lora)
    assert_close(logits(merged, TOKENS), applied)
    assert_apart(applied, logits(base.model, TOKENS))


@pytest.mark.parametrize("name", ["llama-groups", "qwen2-groups", "qwen3-groups"])
@pytest.mark.parametrize(
    "targets", [(), ("q", "v", "gate"), ("k", "up", "down"), ("qkv", "out"), ("gate",)], ids=str
)
def test_merged_equals_applied_in_other_families(
    name: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    """Where keys are narrower than queries, and the MLP has a gate; also in a mixed flat batch."""
    path = write_peer(new_peer(CASES[name]), tmp_path)
    model, merged = load_base(path).model, load_base(path).model
    lora = new_lora(model, 1, LoRASettings(rank=4, alpha=8.0, targets=targets))
    lora.merge_into(merged)
    applied, plain = logits(model, TOKENS, lora), logits(model, TOKENS)
    assert_close(logits(merged, TOKENS), applied)
    assert_apart(applied, plain)
    with torch.no_grad():
        hidden = model(
            torch.tensor(TOKENS * 2),
            positions=torch.arange(len(TOKENS)).repeat(2),
            cache=CacheStep(
                KVCache(model.config, 2), [Span([i], 0, len(TOKENS)) for i in range(2)]
            ),
            adapters=AdapterRows([(lora, slice(len(TOKENS), None))]),
        )
        first, second = model.logits(hidden).split(len(TOKENS))
    assert_close(first, plain)
    assert_close(second, applied)


def test_a_fresh_adapter_changes_nothing(pair: tuple[Any, Base]) -> None:
    model = pair[1].model
    lora = LoRA(model.config, LoRASettings(rank=4))
    lora.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(logits(model, TOKENS, lora), logits(model, TOKENS))
    assert all(a.abs().max() > 0 for a in lora.a.values()), "nothing could ever be learnt"


def test_rank_0_has_no_parameters(pair: tuple[Any, Base]) -> None:
    model = pair[1].model
    lora = LoRA(model.config, LoRASettings(rank=0))
    assert list(lora.parameters()) == []
    assert torch.equal(logits(model, TOKENS, lora), logits(model, TOKENS))


@torch.no_grad()
def test_a_mixed_batch_equals_each_row_alone(pair: tuple[Any, Base]) -> None:
    """Four sequences in one flat batch: one without adapter, two with one, one with another."""
    model = pair[1].model
    first, second = new_lora(model, 1), new_lora(model, 2)
    sequences = [(TOKENS, first), ([7], first), ([1, 2, 3], None), ([9, 8, 7, 6], second)]
    cache = KVCache(model.config, blocks=4)
    spans = [Span([block], 0, len(tokens)) for block, (tokens, _) in enumerate(sequences)]
    adapters = AdapterRows([(first, slice(0, 7)), (second, slice(10, 14))])
    hidden = model(
        torch.tensor([token for tokens, _ in sequences for token in tokens]),
        positions=torch.tensor([place for tokens, _ in sequences for place in range(len(tokens))]),
        cache=CacheStep(cache, spans),
        adapters=adapters,
    )
    parts = model.logits(hidden).split([len(tokens) for tokens, _ in sequences])
    for (tokens, lora), part in zip(sequences, parts, strict=True):
        assert_close(part, logits(model, tokens, lora))
    assert_apart(parts[3], logits(model, [9, 8, 7, 6], first))


# peft still calls transformers by a name that transformers 5 warns about.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_reads_our_adapter(pair: tuple[Any, Base], tmp_path: Path) -> None:
    """The saved file, in its form and on transformers' model, computes what ours does."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    peer, base = pair
    settings = LoRASettings(rank=4, alpha=8.0)
    save_adapter(
        tmp_path / "adapter",
        base,
        task="instruct",
        lora=new_lora(base.model, 3, settings),
        head=None,
        card={},
        dtype=torch.float32,
    )
    adapter = load_adapter(tmp_path / "adapter", base)
    (tmp_path / "peft").mkdir()
    write_peft(tmp_path / "peft", base, adapter, torch.float32, None)
    plain = logits(base.model, TOKENS)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(peer, config).eval()
    try:
        weights = load_file(tmp_path / "peft" / "adapter_model.safetensors")
        wanted = {name for name, _ in wrapped.named_parameters() if "lora_" in name}
        assert {name.replace(".weight", ".default.weight") for name in weights} == wanted
        result = peft.set_peft_model_state_dict(wrapped, weights)
        assert not result.unexpected_keys
        with torch.no_grad():
            theirs = wrapped(torch.tensor([TOKENS])).logits[0]
    finally:
        wrapped.unload()
    assert_close(logits(base.model, TOKENS, adapter.lora), theirs)
    assert_apart(theirs, plain)
