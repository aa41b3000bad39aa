"""Which parameters decay, and that a step does what was asked."""

import pytest
import torch
from torch import nn

from model.classifier import ClassifierHead, Labels
from model.config import GPTConfig
from model.errors import UsageError
from model.gpt import GPT
from training.optim import Optimizer, is_matrix

CONFIG = GPTConfig(50, 8, n_layer=1, n_head=1, n_embd=4)


def decayed(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if is_matrix(name, p)}


def test_decay_only_on_matrices() -> None:
    assert decayed(GPT(CONFIG)) == {
        f"h.0.{layer}.weight" for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_embeddings_do_not_decay_inside_another_module_either() -> None:
    head = ClassifierHead(4, Labels(("a", "b")))
    whole = nn.ModuleDict({"model": GPT(CONFIG), "head": head})
    assert "head.score.weight" in decayed(whole)
    assert not any("wte" in name or "wpe" in name for name in decayed(whole))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_decay_pulls_matrices_and_nothing_else(kind: str) -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = Optimizer([model], kind=kind, lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in model.named_parameters():
        shrunk = bool((parameter < 1.0).all())
        assert shrunk == is_matrix(name, parameter), name
        assert parameter.grad is None


def test_frozen_parameters_are_left_alone() -> None:
    model = GPT(CONFIG).requires_grad_(False)
    model.ln_f.requires_grad_(True)
    optimizer = Optimizer([model], kind="adamw", lr=0.1, weight_decay=0.5)
    assert {id(p) for p in optimizer.parameters} == {id(p) for p in model.ln_f.parameters()}


def test_clip_returns_the_norm_before() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer = Optimizer([layer], kind="adamw", lr=0.1, weight_decay=0.0)
    assert float(optimizer.clip(1.0)) == pytest.approx(5.0)
    assert layer.weight.grad.norm() == pytest.approx(1.0, abs=1e-4)


def test_unknown_optimizer() -> None:
    with pytest.raises(UsageError, match="--optimizer is 'sgd'"):
        Optimizer([nn.Linear(1, 1)], kind="sgd", lr=0.1, weight_decay=0.0)
