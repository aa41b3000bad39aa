"""GPT-2 in llama.cpp's file format, as our own export writes it."""

from pathlib import Path

from benchmarks.gpt2 import Files, made
from model.checkpoint import load_base
from model.convert.gguf_write import write_gguf as write

_DTYPES = {"f16": "fp16", "q8_0": "q8_0"}


def write_gguf(files: Files, kind: str) -> Path:
    """The file of that kind (f16 or q8_0), written if it is not there."""
    return made(
        files.gguf(kind), lambda out: write(out, load_base(files.penwright), _DTYPES[kind], "gpt2")
    )
