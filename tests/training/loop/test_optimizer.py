"""Which parameters decay, and that a step does what was asked."""

from typing import Any

import pytest
import torch
from torch import nn

from model.architecture import Architecture
from model.classifier import ClassifierHead, Labels
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from model.rope import Rope
from model.transformer import Transformer
from training.loop.optimizer import Optimizer

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "context_length": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 4,
}
MODERN: dict[str, Any] = {"n_kv_head": 1, "norm": "rms", "mlp": "swiglu", "rope": Rope()}
CONFIGS = {
    "gpt2": Architecture(**SHAPE),
    "small-modern": Architecture(**SHAPE, **MODERN, bias="none", qk_norm=True),
    "qwen2.5": Architecture(**SHAPE, **MODERN, bias="qkv", tied=False),
}
ATTENTION = {"blocks.0.attention.qkv.weight", "blocks.0.attention.out.weight"}
GELU = {"blocks.0.mlp.up.weight", "blocks.0.mlp.down.weight"}
SWIGLU = {"blocks.0.mlp.gate_up.weight", "blocks.0.mlp.down.weight"}
MATRICES = {
    "gpt2": ATTENTION | GELU,
    "small-modern": ATTENTION | SWIGLU,
    "qwen2.5": ATTENTION | SWIGLU | {"head.weight"},
}
"""The parameters that decay."""

PLAIN = {"lr": 0.1, "weight_decay": 0.5}

families = pytest.mark.parametrize("family", CONFIGS)


def decayed(module: nn.Module) -> set[str]:
    """The parameters that an optimizer lets decay, by their names."""
    [optimizer] = Optimizer([module], kind="adamw", lr=0.1, weight_decay=0.5).optimizers
    found = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    return {name for name, parameter in module.named_parameters() if id(parameter) in found}


@families
def test_decay_only_on_matrices(family: str) -> None:
    assert decayed(Transformer(CONFIGS[family])) == MATRICES[family]


@families
def test_embeddings_do_not_decay_inside_another_module_either(family: str) -> None:
    head = ClassifierHead(4, Labels(("a", "b")))
    whole = nn.ModuleDict({"model": Transformer(CONFIGS[family]), "head": head})
    assert "head.score.weight" in decayed(whole)
    assert not any("embedding" in name or "positions" in name for name in decayed(whole))


@families
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_decay_pulls_matrices_and_nothing_else(kind: str, family: str) -> None:
    model = Transformer(CONFIGS[family])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = Optimizer([model], kind=kind, lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in model.named_parameters():
        shrunk = bool((parameter < 1.0).all())
        assert shrunk == (name in MATRICES[family]), name
        assert parameter.grad is None


@families
def test_adapters_decay_whatever_they_change(family: str) -> None:
    lora = LoRA(CONFIGS[family], LoRASettings(rank=2))
    assert decayed(lora) == set(lora.state_dict())


@families
def test_frozen_parameters_are_left_alone(family: str) -> None:
    model = Transformer(CONFIGS[family]).requires_grad_(False)
    model.norm.requires_grad_(True)
    optimizer = Optimizer([model], kind="adamw", lr=0.1, weight_decay=0.5)
    assert {id(p) for p in optimizer.parameters} == {id(p) for p in model.norm.parameters()}


def test_clip_returns_the_norm_before() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer = Optimizer([layer], kind="adamw", lr=0.1, weight_decay=0.0)
    assert float(optimizer.clip(1.0)) == pytest.approx(5.0)
    assert layer.weight.grad.norm() == pytest.approx(1.0, abs=1e-4)


@families
def test_muon_has_the_matrices_of_the_blocks_and_nothing_else(family: str) -> None:
    head = ClassifierHead(4, Labels(("a", "b")))
    lora = LoRA(CONFIGS[family], LoRASettings(rank=2))
    whole = nn.ModuleDict({"model": Transformer(CONFIGS[family]), "head": head, "lora": lora})
    muon, adamw = Optimizer([whole], kind="muon", lr=0.1, weight_decay=0.5).optimizers
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    found = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert isinstance(muon, torch.optim.Muon)
    assert found == {f"model.{name}" for name in MATRICES[family] - {"head.weight"}}
    rest = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted([*found, *rest]) == sorted(names.values())
    decaying = {names[id(p)] for g in adamw.param_groups if g["weight_decay"] for p in g["params"]}
    own = {"model.head.weight"} & set(names.values())
    assert decaying == {"head.score.weight", *own, *(n for n in rest if n.startswith("lora."))}


def test_muon_without_a_block_is_adamw() -> None:
    [only] = Optimizer([LoRA(CONFIGS["gpt2"], LoRASettings(2))], kind="muon", **PLAIN).optimizers
    assert isinstance(only, torch.optim.AdamW)


def test_states_of_other_groups_do_not_fit() -> None:
    """Those of an earlier version, whose Muon had all matrices, among them."""
    lora = LoRA(CONFIGS["gpt2"], LoRASettings(2))
    now = Optimizer([lora], kind="muon", **PLAIN)
    assert now.fits(now.state_dict())
    before = torch.optim.Muon(list(lora.parameters()), lr=0.1)
    assert not now.fits([before.state_dict()])
    untied = Transformer(CONFIGS["qwen2.5"])
    states = Optimizer([untied], kind="adamw", **PLAIN).state_dict()
    assert untied.head is not None
    untied.head.requires_grad_(False)
    assert not Optimizer([untied], kind="adamw", **PLAIN).fits(states)


def test_unknown_optimizer() -> None:
    with pytest.raises(UsageError, match="--optimizer is 'sgd'"):
        Optimizer([nn.Linear(1, 1)], kind="sgd", lr=0.1, weight_decay=0.0)
