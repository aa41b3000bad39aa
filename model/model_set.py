"""A model set: a directory whose `models.json` says which checkpoint answers which task.

    {"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}

The values are names of directories beside the file, and the names by which requests ask for a
model. A task that is left out is not served.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import TASKS, TaskName
from model.errors import CheckpointError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelSet:
    """Which checkpoint serves which task."""

    tasks: dict[TaskName, str]
    paths: dict[str, Path]
    """Directory of each model, by its name."""


def load_model_set(directory: Path) -> ModelSet:
    """Read `models.json` of `directory`.

    Raises:
        CheckpointError: it is missing, malformed, of another version, or names what is not there.
    """
    file = directory / "models.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(values, dict) or values.pop("format_version", None) != FORMAT_VERSION:
        raise CheckpointError(f"{file}: must be an object with format_version {FORMAT_VERSION}")
    tasks: dict[TaskName, str] = {}
    paths = {}
    for task, name in values.items():
        if task not in TASKS:
            raise CheckpointError(
                f"{file}: unknown task {task!r}; it must be among {', '.join(TASKS)}"
            )
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise CheckpointError(f"{file}: {task} is {name!r}; it must be the name of a directory")
        paths[name] = directory / name
        tasks[task] = name
    if not tasks:
        raise CheckpointError(f"{file}: names no model")
    return ModelSet(tasks, paths)
