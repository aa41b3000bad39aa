"""A network filled with tensors from another program's file, and taken apart into such.

An import is exact or an error: a tensor that is missing, of another shape, or that nobody uses is
refused by its name, and all of that before memory is taken for the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from model.architecture import Architecture
from model.classifier import ClassifierHead
from model.convert.families import Table, their_names
from model.errors import CheckpointError
from model.frozen import Held, has_matrix, place
from model.projection import Projection
from model.prompts import Template
from model.tasks import TaskName
from model.tokenizer import Tokenizer
from model.transformer import Transformer

_SMALLEST = 4
"""Parameters that a byte of a file holds at most: two bits each."""


class Stored(Protocol):
    """A tensor in a file that is open."""

    @property
    def name(self) -> str:
        """As the file has it."""

    @property
    def source(self) -> Path:
        """The file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In our order: (out_features, in_features)."""

    def read(self, dtype: torch.dtype | None) -> Tensor:
        """Its numbers; None as they are stored."""

    def packed(self) -> tuple[Tensor, Tensor] | None:
        """The same as whole numbers and their scales, as `model.frozen` holds what is packed; None
        if it is not stored so."""


@dataclass(frozen=True)
class Imported:
    """What another program's file or directory holds."""

    model: Transformer
    """In evaluation mode."""
    tokenizer: Tokenizer
    files: dict[str, str]
    """SHA-256 of each file that was read, by its name."""
    weights: tuple[str, ...]
    """Which of them hold the weights."""
    template: Template | None = None
    """How its chats are written; None if it has none, or one that cannot be used."""
    template_problem: str | None = None
    """Why its chat template cannot be used, if it has one that cannot."""
    head: ClassifierHead | None = None
    """Of a classifier."""
    task: TaskName | None = None
    """Which it was exported for, where our own export wrote it."""


def check_size(config: Architecture, tensors: int, size: int, source: Path | str) -> None:
    """Refuse an architecture that its file cannot hold, before a network of that size is built.

    Args:
        tensors: how many the file has.
        size: of all its files, in bytes.
        source: of the architecture, for the error.

    Raises:
        CheckpointError: says what was asked for and what is there.
    """
    if config.n_layer > tensors or config.parameter_count() > _SMALLEST * size:
        raise CheckpointError(
            f"{source}: asks for {config.parameter_count():,} parameters in {config.n_layer:,} "
            f"blocks; the weights have {tensors:,} tensors in {size:,} bytes"
        )


def fill(
    config: Architecture,
    table: Table,
    stored: Mapping[str, Stored],
    source: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    held: Held | None = None,
) -> Transformer:
    """A network with the stored weights; all of them must be there and be used.

    Args:
        table: of their names.
        stored: by their names.
        source: the file or directory, for errors.
        dtype: in which the weights are held; None is as they are stored.
        held: how the matrices of a frozen network are held, in place of `dtype`; each is turned
            into it before the next one is read.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or unknown; names it.
    """
    with torch.device("meta"):
        model = Transformer(config)
    found: dict[str, list[Stored]] = {}
    unused = dict(stored)
    for name, parameter in model.state_dict().items():
        wanted = _wanted(model.get_submodule(name.rpartition(".")[0]), parameter)
        theirs = their_names(table, name)
        shapes = wanted if len(theirs) == len(wanted) else [tuple(parameter.shape)]
        found[name] = [
            _checked(unused.pop(their, None), their, shape, source)
            for their, shape in zip(theirs, shapes, strict=True)
        ]
    if unused:
        names = ", ".join(sorted(entry.name for entry in unused.values())[:5])
        raise CheckpointError(f"{source}: {len(unused)} unknown tensors: {names}")
    weights = {}
    for name, entries in found.items():
        if held == "packed" and has_matrix(model.get_submodule(name.rpartition(".")[0])):
            whole = _packed(entries)
            if whole is not None:
                place(model, name, whole[0].to(device), held, whole[1].to(device))
                continue
        parts = [entry.read(None if held else dtype).to(device) for entry in entries]
        tensor = (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()
        if held:
            place(model, name, tensor, held)
        else:
            weights[name] = tensor
    if not held:
        model.load_state_dict(weights, assign=True)
    return model.eval()


def _packed(entries: Sequence[Stored]) -> tuple[Tensor, Tensor] | None:
    """Their whole numbers and scales, one below the other, where all are stored in one way."""
    found: list[tuple[Tensor, Tensor]] = []
    for entry in entries:
        part = entry.packed()
        if part is None or (found and _types(part) != _types(found[0])):
            return None
        found.append(part)
    values, scales = zip(*found, strict=True)
    return torch.cat(values), torch.cat(scales)


def _types(tensors: Sequence[Tensor]) -> list[torch.dtype]:
    return [tensor.dtype for tensor in tensors]


def taken_apart(
    weights: Mapping[str, Tensor], table: Table, parts: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, Tensor]]:
    """A network's tensors under their names; what they store as several layers is split.

    Args:
        weights: of a `Transformer`, by our names.
        table: of their names.
        parts: how many output channels each part of a projection has, by its path.
    """
    for name, tensor in weights.items():
        theirs = their_names(table, name)
        widths = parts[name.rpartition(".")[0]] if len(theirs) > 1 else (len(tensor),)
        yield from zip(theirs, torch.split(tensor, list(widths)), strict=True)


def widths_of(model: Transformer) -> dict[str, tuple[int, ...]]:
    """The output channels of each part of each projection, by its path."""
    return {path: tuple(layer.parts.values()) for path, layer in model.projections()}


def _wanted(module: nn.Module, parameter: Tensor) -> list[tuple[int, ...]]:
    """The shapes of a parameter's parts, where a projection is made of several layers."""
    widths = module.parts.values() if isinstance(module, Projection) else [len(parameter)]
    return [(width, *parameter.shape[1:]) for width in widths]


def _checked(entry: Stored | None, name: str, shape: tuple[int, ...], source: Path) -> Stored:
    if entry is None:
        raise CheckpointError(f"{source}: has no tensor {name}")
    if entry.shape != shape:
        raise CheckpointError(
            f"{entry.source}: {entry.name} has the shape {entry.shape}; "
            f"the configuration asks for {shape}"
        )
    return entry
