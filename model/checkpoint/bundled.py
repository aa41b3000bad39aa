"""The model sets that come with Penwright, and bases found by what adapters know them by."""

import contextlib
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


def find_base(sha256: str, models: Path) -> Path | None:
    """The base that adapters know by `sha256`: of the set `models`, or else one that comes with
    Penwright; None where there is none."""
    for directory in (models, *bundled_sets()):
        with contextlib.suppress(OSError):  # as of a directory that may not be listed
            for path in sorted(directory.iterdir()):
                if sha256 in identities(path):
                    return path
    return None
