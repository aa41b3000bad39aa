"""The files of a checkpoint directory: JSON with a version, safetensors, and the card with hashes.

Reading turns whatever can be wrong with a file into a `CheckpointError` that names it. What the
files mean is `model.checkpoint`'s business.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.errors import CheckpointError, UsageError
from model.json_files import read_json as read_json
from model.json_files import shown

FORMAT_VERSION = 2
"""What is written; 1 is read as well."""
CARD = "card.json"


def check_target(out: Path) -> None:
    """Refuse to publish over a directory that is no checkpoint; ask before a long training, too.

    Raises:
        UsageError: `out` exists, has something in it, and no card; or it is the working directory
            or above it, which cannot be exchanged for another.
    """
    if Path.cwd().is_relative_to(out.resolve()):
        raise UsageError(f"--out {out} is or holds the working directory; name a new directory")
    if out.is_dir() and any(out.iterdir()) and not (out / CARD).is_file():
        raise UsageError(f"--out {out} holds files that are no checkpoint; name a new directory")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a directory")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; a number that is not finite becomes null, as JSON has none."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


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


def write_card(directory: Path, card: Mapping[str, Any], outputs: list[dict[str, Any]]) -> None:
    files = {file.name: sha256(file) for file in sorted(directory.iterdir())}
    write_json(directory / CARD, {**card, "golden": outputs, "files": files})


def read_card(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The card, after the hash of every file that it names was found right."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint directory")
    card = read_json(path / CARD, not_finite=True)  # as earlier versions wrote some metrics
    files = card.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path / CARD}: has no hashes of files")
    for name in {*needed, *files}:
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: is missing")
        if files.get(name) != sha256(path / name):
            raise CheckpointError(
                f"{path / name}: its SHA-256 is not the one in {CARD}; it was altered or cut short"
            )
    return card


def read_versioned(
    path: Path, versions: Mapping[int, Mapping[str, tuple[type, ...]]]
) -> dict[str, Any]:
    """The values of a settings file, `format_version` among them.

    Args:
        versions: the fields of each version that is read, with their types.

    Raises:
        CheckpointError: it is of another version, or a field is missing, unknown or of another
            type; names it.
    """
    values = read_json(path)
    version = values.pop("format_version", None)
    if type(version) is not int or version not in versions:  # True is 1 otherwise
        raise CheckpointError(
            f"{path}: format version {shown(version)}; "
            f"this Penwright reads version {' and '.join(map(str, versions))}"
        )
    fields = versions[version]
    if values.keys() != fields.keys():
        raise CheckpointError(
            f"{path}: unknown fields {shown(sorted(values.keys() - fields.keys()))}, "
            f"missing fields {sorted(fields.keys() - values.keys())}"
        )
    for name, kinds in fields.items():
        value = values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(f"{path}: {name} cannot be {shown(value)}")
    return {**values, "format_version": version}


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
    for module in modules:
        expected = module.state_dict()
        mine = {name: weights.pop(name) for name in expected if name in weights}
        for name, tensor in expected.items():
            if name not in mine:
                raise CheckpointError(f"{source}: has no tensor {name}")
            if mine[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{source}: {name} has the shape {tuple(mine[name].shape)} "
                    f"in place of {tuple(tensor.shape)}"
                )
        module.load_state_dict(mine, assign=True)
    if weights:
        raise CheckpointError(f"{source}: has unknown tensors: {', '.join(sorted(weights))}")
