"""Blocks that are computed again backward give the same gradients."""

import torch
from torch import Tensor

from model.architecture import Architecture
from model.transformer import Block, Transformer
from training.activations import checkpoint_activations


def gradients(checkpointed: bool) -> tuple[list[Tensor], int]:
    """Of all parameters, with dropout, and how often a block was computed."""
    model = Transformer(Architecture(40, 8, n_layer=2, n_head=2, n_embd=8), dropout=0.2)
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


def test_gradients_are_the_same_to_the_bit() -> None:
    plain, once = gradients(checkpointed=False)
    again, twice = gradients(checkpointed=True)
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert (once, twice) == (2, 3)  # with the pass without gradients


def test_weights_keep_their_names() -> None:
    model = Transformer(Architecture(40, 8, n_layer=1, n_head=1, n_embd=8))
    names = list(model.state_dict())
    checkpoint_activations(model)
    assert list(model.state_dict()) == names
    assert all(isinstance(block, Block) for block in model.blocks)
