"""The networks that systems are compared on."""

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import gpt2, llama_1b, smollm2
from benchmarks.gpt2 import Files

MODELS: Mapping[str, Callable[[Path], Files]] = {
    "gpt2": gpt2.prepare,
    "smollm2": smollm2.prepare,
    "llama-1b": llama_1b.prepare,
}
"""What writes the files of each into a directory."""


def prepare(model: str, work: Path) -> Files:
    """The files of a model, which has a directory of its own in `work`; written if need be."""
    return MODELS[model](work / model)
