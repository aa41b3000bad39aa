"""Tensors in files: safetensors written and read, and networks that take them.

Reading turns whatever can be wrong with a file into a `CheckpointError` that names it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.errors import CheckpointError


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    metadata: dict[str, str] | None = None,
) -> None:
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()
    }
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors by name; nothing but its header is read."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from error


def read_weights(path: Path, dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file by name, in `dtype`; None leaves them as they are stored."""
    try:
        weights = safetensors.torch.load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from error
    return weights if dtype is None else {name: t.to(dtype) for name, t in weights.items()}


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a file as it is stored, of which no other part is then in memory: a file that
    stays open keeps all that was read of it."""
    try:
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from error
    return tensor


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal.

    Raises:
        CheckpointError: it cannot be read; names it.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def assign(modules: list[nn.Module], weights: dict[str, Tensor], source: Path) -> None:
    """Give the modules, still without memory, their weights; every name and shape must fit."""
    check_shapes(modules, {name: tuple(tensor.shape) for name, tensor in weights.items()}, source)
    for module in modules:
        mine = {name: weights[name] for name in module.state_dict()}
        module.load_state_dict(mine, assign=True)


def check_shapes(
    modules: list[nn.Module], shapes: Mapping[str, tuple[int, ...]], source: Path
) -> None:
    """
    Raises:
        CheckpointError: the tensors of `source` are not those of the modules; names one.
    """
    unknown = set(shapes)
    for module in modules:
        for name, tensor in module.state_dict().items():
            if name not in unknown:
                raise CheckpointError(f"{source}: has no tensor {name}")
            unknown.remove(name)
            if shapes[name] != tensor.shape:
                raise CheckpointError(
                    f"{source}: {name} has the shape {shapes[name]} "
                    f"in place of {tuple(tensor.shape)}"
                )
    if unknown:
        raise CheckpointError(f"{source}: has unknown tensors: {', '.join(sorted(unknown))}")
