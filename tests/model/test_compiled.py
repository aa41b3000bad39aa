"""Blocks under PyTorch's compiler: what is written by hand for a CPU gives way to it."""

import shutil

import pytest
import torch

from model.architecture import Architecture
from model.rope import Rope
from model.transformer import Transformer

pytestmark = [
    pytest.mark.skipif(
        shutil.which("g++") is None, reason="PyTorch compiles for a CPU with a C++ compiler"
    ),
    pytest.mark.filterwarnings("ignore"),  # of PyTorch's compiler about itself
    pytest.mark.timeout(600),
]


def test_a_compiled_network_computes_what_it_did() -> None:
    """Of several sequences with rotary positions, forward and backward, and as it is served."""
    config = Architecture(
        *(64, 32, 1, 2, 16), norm="rms", mlp="swiglu", bias="none", qk_norm=True, rope=Rope()
    )
    model, plain = Transformer(config), Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    plain.load_state_dict(model.state_dict())
    for block in model.blocks:
        block.compile()
    tokens = torch.randint(0, 64, (2, 13), generator=torch.Generator().manual_seed(2))
    found, expected = model(tokens), plain(tokens)
    assert torch.allclose(found, expected, atol=1e-5)
    for each in (found, expected):
        each.square().sum().backward()
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert two.grad is not None
        assert one.grad is not None, name
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-4), name
    model.multiply_in_tiles()
    with torch.no_grad():
        assert torch.allclose(model.eval()(tokens), expected, atol=1e-5)
