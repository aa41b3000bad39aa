"""The model sets that come with Penwright, and the bases in them by what adapters know them by."""

import sys
from pathlib import Path

from model.checkpoint.base import identities
from model.checkpoint.files import MODELS

_PLACES = (
    Path(__file__).resolve().parents[2] / "checkpoints",
    Path(sys.prefix) / "share" / "penwright" / "checkpoints",
)
"""Beside the source, and where the wheel puts them."""


def bundled_sets() -> list[Path]:
    """The directories of the sets, the first of a name before others of that name."""
    return [file.parent for place in _PLACES for file in sorted(place.glob(f"*/{MODELS}"))]


def bundled_base(sha256: str) -> Path | None:
    """The base that adapters know by `sha256`, if it comes with Penwright."""
    for models in bundled_sets():
        for path in sorted(models.iterdir()):
            if sha256 in identities(path):
                return path
    return None
