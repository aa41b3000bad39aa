"""The checkpoint directory: what training publishes and the service loads.

    base/      config.json  model.safetensors or model.gguf  the tokenizer's file  card.json
    adapter/   adapter.json  adapter.safetensors  card.json

A GGUF file may lie elsewhere: `config.json` names it, `card.json` its hash, and it is looked for
beside them, then in `model.checkpoint.weights_folder`.

`card.json` holds the SHA-256 of every other file, and its own hash is the checkpoint's id. Loading
checks all of them: an altered file is refused by its name. There is no pickle, and nothing is
downloaded. Publishing replaces the directory whole (`model.checkpoint.atomic`).

A directory of the first kind may also hold a classification head (`score.*`): that is a fully
fine-tuned classifier.

A base may as well be another program's: a GGUF file or a Hugging Face directory, read as it is.
Without a card nothing was promised of its answers, and nothing is verified.
"""

from model.checkpoint.adapter import (
    Adapter,
    adapter_base_path,
    is_adapter,
    load_adapter,
    save_adapter,
)
from model.checkpoint.base import Base, checkpoint_name, load_base, save_base
from model.tasks import TASKS, TaskName

__all__ = [
    "TASKS",
    "Adapter",
    "Base",
    "TaskName",
    "adapter_base_path",
    "checkpoint_name",
    "is_adapter",
    "load_adapter",
    "load_base",
    "save_adapter",
    "save_base",
]
