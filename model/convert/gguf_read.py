"""llama.cpp's file format, GGUF, read: GPT-2 language models that are stored as numbers or in 8
bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import TASKS
from model.checkpoint_files import assign, sha256
from model.config import GPTConfig
from model.convert.gguf_tokenizer import read_tokenizer
from model.convert.gguf_write import ARCHITECTURE, TYPES, gguf_name, import_gguf
from model.convert.hf_read import Imported
from model.errors import CheckpointError, UsageError
from model.gpt import GPT

_SHAPE = {
    "context_length": "context_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_embd": "embedding_length",
}
_EPSILON = f"{ARCHITECTURE}.attention.layer_norm_epsilon"


def read_gguf(path: Path) -> Imported:
    """Read a GPT-2 language model and its tokenizer; 8-bit weights become fp32.

    Raises:
        UsageError: `gguf` is not installed.
        CheckpointError: the file is cut short, of another architecture, or has a tensor that is
            unknown, of another shape, or stored in a form that is not read here; names it.
    """
    gguf = import_gguf(f"{path}: reading it")
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # numpy's, struct's and its own: whatever a broken file leads to
        raise CheckpointError(f"{path}: not a usable GGUF file: {error}") from error
    config = _config(fields, path)
    tokenizer = read_tokenizer(fields, path)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the network only {config.vocab_size}"
        )
    stored = {tensor.name: _values(tensor, gguf, path) for tensor in reader.tensors}
    model = _fill(config, stored, path)
    task = fields.get("penwright.task")
    return Imported(
        model, tokenizer, {path.name: sha256(path)}, task=task if task in TASKS else None
    )


def _config(fields: dict[str, Any], source: Path) -> GPTConfig:
    found = fields.get("general.architecture")
    if found != ARCHITECTURE:
        raise CheckpointError(
            f"{source}: general.architecture is {found!r}; only {ARCHITECTURE!r} is supported"
        )
    shape: dict[str, Any] = {"vocab_size": len(fields.get("tokenizer.ggml.tokens") or ())}
    for name, theirs in _SHAPE.items():
        if f"{ARCHITECTURE}.{theirs}" not in fields:
            raise CheckpointError(f"{source}: has no {ARCHITECTURE}.{theirs}")
        shape[name] = fields[f"{ARCHITECTURE}.{theirs}"]
    epsilon = fields.get(_EPSILON, 1e-5)
    if not abs(epsilon - 1e-5) < 1e-9:  # stored in fp32
        raise CheckpointError(
            f"{source}: {_EPSILON} is {epsilon!r}; only GPT-2's 1e-5 is supported"
        )
    try:
        return GPTConfig(**shape, tied=True)
    except UsageError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _values(tensor: Any, gguf: Any, source: Path) -> Tensor:
    """fp32, in our order of dimensions."""
    kind = tensor.tensor_type.name
    if kind not in TYPES.values():
        raise CheckpointError(
            f"{source}: {tensor.name} is stored as {kind}; only {', '.join(TYPES.values())} can be "
            "read"
        )
    content = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return torch.from_numpy(np.array(content, np.float32).reshape(shape))


def _fill(config: GPTConfig, stored: dict[str, Tensor], source: Path) -> GPT:
    """A network with the stored weights; all of them must be there and be used."""
    head, embedding = stored.get("output.weight"), stored.get("token_embd.weight")
    tied = head is None or (embedding is not None and torch.equal(head, embedding))
    if tied:
        stored.pop("output.weight", None)
    with torch.device("meta"):
        model = GPT(replace(config, tied=tied))
    ours = {gguf_name(name): name for name in model.state_dict()}
    unknown = sorted(stored.keys() - ours.keys())
    if unknown:
        raise CheckpointError(f"{source}: {len(unknown)} unknown tensors: {', '.join(unknown[:5])}")
    assign([model], {ours[name]: tensor for name, tensor in stored.items()}, source)
    return model.eval()
