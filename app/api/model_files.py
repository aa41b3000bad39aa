"""What the files of a served model are, for lists of models."""

from pathlib import Path
from typing import Literal

from app.engine.loading import ServedModel
from model.checkpoint import Base
from model.checkpoint.files import CARD, WEIGHTS_FROM


def published(model: ServedModel) -> float:
    """When its checkpoint was published here: seconds since 1970, or 0 if that cannot be told."""
    path = model.base.path if model.adapter is None else model.adapter.path
    try:
        return (path if model.base.card == {} else path / CARD).stat().st_mtime
    except OSError:  # another was published in its place meanwhile
        return 0.0


def size(model: ServedModel) -> int:
    """Bytes of its files, those of its base included."""
    own = 0 if model.adapter is None else _size(model.adapter.path)
    return own + _size(model.base.path) + _left_out(model.base)


def weights_format(base: Base) -> Literal["gguf", "safetensors"]:
    gguf = base.path.is_file() or WEIGHTS_FROM in base.card or any(base.path.glob("*.gguf"))
    return "gguf" if gguf else "safetensors"


def _left_out(base: Base) -> int:
    """Bytes of weights that its checkpoint does not hold, as its card says."""
    stated = base.card.get(WEIGHTS_FROM)
    if not isinstance(stated, dict) or any(base.path.glob("*.gguf")):
        return 0
    count = stated.get("bytes")
    return count if isinstance(count, int) else 0


def _size(path: Path) -> int:
    try:
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0
