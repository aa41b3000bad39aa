"""llama.cpp's file format, GGUF, read as one of our networks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.architecture import Architecture
from model.convert.families import FAMILIES
from model.convert.gguf_blocks import packed
from model.convert.gguf_config import DIVISORS, family_of, read_architecture
from model.convert.gguf_file import GGUFFile, read_header
from model.convert.gguf_rows import LLAMA, halves, heads_side_by_side
from model.convert.gguf_tokenizer import named_token, read_tokenizer
from model.convert.tensors import Imported, check_size, fill
from model.errors import CheckpointError
from model.frozen import Held
from model.prompts import find_template
from model.tasks import TASKS
from model.transformer import Transformer
from model.weight_files import sha256

_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that says it is GGUF, by its name or by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == b"GGUF"


def read_gguf(
    path: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    held: Held | None = None,
) -> Imported:
    """Read a language model and its tokenizer; quantized weights become numbers.

    Args:
        dtype: in which the weights are held; None is fp32, as quantized ones have no type.
        held: how the matrices of a frozen network are held, in place of `dtype`.

    Raises:
        CheckpointError: the file is damaged, of another architecture, or has a tensor that is
            unknown, of another shape, or stored in a form that is not read here; names it.
    """
    file = read_header(path)
    config = _architecture(file)
    tokenizer = read_tokenizer(file.fields, path)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the network only {config.vocab_size}"
        )
    found = find_template(
        file.fields.get("tokenizer.chat_template"),
        tokenizer.special.ids,
        named_token(file.fields, "bos"),
        named_token(file.fields, "eos"),
    )
    task = file.fields.get("penwright.task")
    return Imported(
        _network(file, config, dtype, device, held),
        tokenizer,
        {path.name: sha256(path)},
        (path.name,),
        found.template,
        found.problem,
        task=task if task in TASKS else None,
    )


def read_gguf_network(
    path: Path,
    config: Architecture,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    held: Held | None = None,
) -> Transformer:
    """The network alone, of a file that must be of the architecture `config`.

    Raises:
        CheckpointError: as `read_gguf`, or it is of another architecture.
    """
    file = read_header(path)
    found = _architecture(file)
    if found != config:
        raise CheckpointError(f"{path}: is of another architecture than config.json says")
    return _network(file, config, dtype, device, held)


def _architecture(file: GGUFFile) -> Architecture:
    """What the metadata and the shapes of a few tensors say."""
    tensors = file.tensors
    if _EMBEDDING not in tensors or len(tensors[_EMBEDDING].shape) != 2:
        raise CheckpointError(f"{file.path}: has no tensor {_EMBEDDING} of two dimensions")
    divisors = None
    if DIVISORS in tensors and family_of(file.fields, file.path) == LLAMA:
        if tensors[DIVISORS].nbytes > 4096:
            raise CheckpointError(
                f"{file.path}: {DIVISORS} has the shape {tensors[DIVISORS].shape}; "
                "a head has fewer pairs"
            )
        divisors = tuple(file.read(DIVISORS, torch.float32).flatten().tolist())
    config = read_architecture(
        file.fields,
        tensors[_EMBEDDING].shape[0],
        tied=_is_tied(file),
        divisors=divisors,
        source=file.path,
    )
    check_size(config, len(tensors), file.path.stat().st_size, file.path)
    return config


def _is_tied(file: GGUFFile) -> bool:
    """Whether the head is missing, or is the embedding once more."""
    head, embedding = file.tensors.get(_HEAD), file.tensors[_EMBEDDING]
    if head is None:
        return True
    if (head.shape, head.kind) != (embedding.shape, embedding.kind):
        return False
    return file.same(_HEAD, _EMBEDDING)


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file."""

    file: GGUFFile
    name: str
    heads: int
    """Where the pairs of so many heads are side by side; else 0."""

    @property
    def source(self) -> Path:
        return self.file.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.tensors[self.name].shape

    def read(self, dtype: torch.dtype | None) -> Tensor:
        tensor = self.file.read(self.name, dtype or torch.float32)
        return halves(tensor, self.heads) if self.heads else tensor

    def packed(self) -> tuple[Tensor, Tensor] | None:
        found = packed(self.file.blocks(self.name), self.file.tensors[self.name].kind, self.shape)
        if found is None or not self.heads:
            return found
        values, scale = (halves(part, self.heads) for part in found)
        return values, scale


def _network(
    file: GGUFFile,
    config: Architecture,
    dtype: torch.dtype | None,
    device: torch.device | str,
    held: Held | None,
) -> Transformer:
    family = family_of(file.fields, file.path)
    unused = ({DIVISORS} if family == LLAMA else set()) | ({_HEAD} if config.tied else set())
    stored = {
        name: _Stored(file, name, heads_side_by_side(family, name, config))
        for name in file.tensors.keys() - unused
    }
    table = FAMILIES[family].gguf
    return fill(config, table, stored, file.path, dtype=dtype, device=device, held=held)
