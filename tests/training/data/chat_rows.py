"""Rows as files have them."""

import json
from pathlib import Path
from typing import Any


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def chat(*turns: str) -> dict[str, Any]:
    """Messages of `role: content`."""
    split = [turn.split(": ", 1) for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, content in split]}
