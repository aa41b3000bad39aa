"""A model set: a directory whose `models.json` says which checkpoint answers which task.

    {"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}

The values are names of directories beside the file, and the names by which requests ask for a
model. A task that is left out is not served.
"""

from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import TASKS, TaskName
from model.checkpoint.files import MODELS
from model.errors import CheckpointError
from model.json_files import read_json, shown

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
    file = directory / MODELS
    values = read_json(file)
    version = values.pop("format_version", None)
    if type(version) is not int or version != FORMAT_VERSION:  # True is 1 otherwise
        raise CheckpointError(
            f"{file}: format_version is {shown(version)}; it must be {FORMAT_VERSION}"
        )
    tasks: dict[TaskName, str] = {}
    paths = {}
    for task, name in values.items():
        if task not in TASKS:
            raise CheckpointError(
                f"{file}: unknown task {shown(task)}; it must be among {', '.join(TASKS)}"
            )
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise CheckpointError(
                f"{file}: {task} is {shown(name)}; it must be the name of a directory"
            )
        paths[name] = directory / name
        tasks[task] = name
    if not tasks:
        raise CheckpointError(f"{file}: names no model")
    return ModelSet(tasks, paths)
