"""The template that a checkpoint's `config.json` names."""

from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.json_files import field, shown
from model.prompts.alpaca import Alpaca
from model.prompts.chatml import ChatML
from model.prompts.foreign.template import JinjaTemplate
from model.prompts.llama3 import Llama3
from model.prompts.qwen3 import Qwen3
from model.prompts.template import Template

BUILT_IN: dict[str, type[Template]] = {
    template.name: template for template in (Alpaca, ChatML, Qwen3, Llama3)
}
"""By their names."""

_TEMPLATES: dict[str, type[Template]] = {**BUILT_IN, JinjaTemplate.name: JinjaTemplate}


def from_settings(values: Any, source: Path | str) -> Template:
    """What `Template.settings` gave.

    Args:
        source: the file, for errors.

    Raises:
        CheckpointError: the name or version is unknown, or a setting is missing, unknown or of the
            wrong type; names `source`.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: template is {shown(values)}; it must be an object")
    source = f"{source}: template"
    name = field(values, "name", str, source)
    if name not in _TEMPLATES:
        raise CheckpointError(
            f"{source}: the name {shown(name)} is none of {', '.join(_TEMPLATES)}"
        )
    kind = _TEMPLATES[name]
    version = field(values, "version", int, source)
    if version != kind.version:
        raise CheckpointError(
            f"{source}: {name} of version {version} is not supported; only {kind.version} is"
        )
    for unknown in values.keys() - {"name", "version"} - kind.kinds.keys():
        raise CheckpointError(f"{source}: {name} has no setting {shown(unknown)}")
    return kind.from_values(values, source)
