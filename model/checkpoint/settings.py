"""`config.json` and `adapter.json`: their fields, in today's format and in the one before.

Format 1 knew one family, one template and one end token, which was stop token, padding and end of
a document at once. What it lacks is filled in here, so that whoever reads a checkpoint sees
today's format only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.files import GGUF, SAFETENSORS, may_be_left_out, read_versioned
from model.errors import CheckpointError
from model.json_files import shown
from model.prompts import Alpaca
from model.tasks import TASKS

_NULL = type(None)
_CONFIG = {
    "task": (str,),
    "architecture": (dict,),
    "dtype": (str,),
    "weights": (str,),
    "tokenizer": (dict,),
    "template": (dict, _NULL),
    "classifier": (dict, _NULL),
}
_CONFIG_1 = {
    **{name: kinds for name, kinds in _CONFIG.items() if name != "weights"},
    "template": (dict,),
    "stop_tokens": (list,),
}
_ADAPTER = {
    "task": (str,),
    "base": (dict,),
    "dtype": (str,),
    "rank": (int,),
    "alpha": (int, float),
    "targets": (list,),
    "template": (dict, _NULL),
    "labels": (list, _NULL),
    "positive": (str, _NULL),
    "threshold": (int, float, _NULL),
    "temperature": (int, float, _NULL),
    "scaling": (str,),
    "dora": (bool,),
    "pooling": (str,),
}
_NEWER = {"scaling": "rank", "dora": False, "pooling": "last"}
"""What an adapter is without the fields that are written only where they say something else."""
_ADAPTER_1 = {
    **{name: kinds for name, kinds in _ADAPTER.items() if name not in _NEWER},
    "template": (dict,),
}


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a base's `config.json`, and `format_version`.

    Raises:
        CheckpointError: a field is missing, unknown or of another type; names it.
    """
    values = read_versioned(path, {1: _CONFIG_1, 2: _CONFIG})
    _check_task(values, path)
    if values["format_version"] == 1:
        _check_old_template(values, path)
        values["weights"] = SAFETENSORS
        if values["task"] != "instruct":  # it was named whether or not anything had learnt it
            values["template"] = None
    weights = values["weights"]
    if weights not in (SAFETENSORS, GGUF) and not may_be_left_out(weights):
        raise CheckpointError(
            f"{path}: weights is {shown(weights)}; it must be {SAFETENSORS}, {GGUF}, or the name "
            "of another .gguf file, without a directory"
        )
    return values


def read_adapter_settings(path: Path) -> dict[str, Any]:
    """The fields of an adapter's `adapter.json`, and `format_version`.

    Raises:
        CheckpointError: a field is missing, unknown or of another type; names it.
    """
    values = read_versioned(path, {1: _ADAPTER_1, 2: _ADAPTER}, _NEWER)
    values = {**_NEWER, **values}
    _check_task(values, path)
    if values["format_version"] == 1:
        _check_old_template(values, path)
        if values["task"] != "instruct":
            values["template"] = None
    return values


def _check_task(values: Mapping[str, Any], path: Path) -> None:
    if values["task"] not in TASKS:
        raise CheckpointError(f"{path}: task {values['task']!r} is none of {', '.join(TASKS)}")


def _check_old_template(values: Mapping[str, Any], path: Path) -> None:
    known = Alpaca().settings()
    if values["template"] != known:
        raise CheckpointError(f"{path}: template {shown(values['template'])} is not {known}")
