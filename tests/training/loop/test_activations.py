"""Blocks that are computed again backward give the same gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.architecture import Architecture
from model.rope import Rope
from model.transformer import Block, Transformer
from training.loop.prepare import checkpoint_activations

GPT2 = Architecture(40, 8, n_layer=2, n_head=2, n_embd=8)
MODERN = replace(GPT2, n_kv_head=1, norm="rms", mlp="swiglu", bias="none", rope=Rope())
families = pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])


def gradients(config: Architecture, checkpointed: bool) -> tuple[list[Tensor], int]:
    """Of all parameters, with dropout, and how often a block was computed."""
    model = Transformer(config, dropout=0.2)
    model.init_weights(torch.Generator().manual_seed(1))
    if checkpointed:
        checkpoint_activations(model)
    calls = []
    model.blocks[0].attention_norm.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(2)
    tokens = torch.randint(40, (3, 8), generator=torch.Generator().manual_seed(3))
    model.logits(model(tokens)).square().sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model(tokens)
    return [p.grad for p in model.parameters() if p.grad is not None], len(calls)


@families
def test_gradients_are_the_same_to_the_bit(config: Architecture) -> None:
    plain, once = gradients(config, checkpointed=False)
    again, twice = gradients(config, checkpointed=True)
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert (once, twice) == (2, 3)  # with the pass without gradients


@families
def test_weights_keep_their_names(config: Architecture) -> None:
    model = Transformer(config)
    names = list(model.state_dict())
    checkpoint_activations(model)
    assert list(model.state_dict()) == names
    assert all(isinstance(block, Block) for block in model.blocks)
