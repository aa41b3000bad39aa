"""What the tests of `model` share: a tokenizer of bytes and a small network with random weights."""

import pytest
import torch

from model.architecture import Architecture
from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer
from model.transformer import Transformer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The 256 bytes, a few merges, and the end token 260."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b"th": 256, b" th": 257, b"an": 258, " é".encode()[:2]: 259}
    return Tokenizer(ranks, GPT2_PATTERN, {END_OF_TEXT: 260})


@pytest.fixture
def config() -> Architecture:
    return Architecture(261, 32, n_layer=2, n_head=4, n_embd=32)


@pytest.fixture
def model(config: Architecture) -> Transformer:
    """In evaluation mode; with GPT-2's initialisation, drawn from seed 0."""
    model = Transformer(config).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    return model
