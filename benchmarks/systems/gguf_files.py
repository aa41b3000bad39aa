"""A model in llama.cpp's file format: as our own export writes it, or as its own tool does."""

import ctypes
from pathlib import Path

from benchmarks.gpt2 import Files, made
from model.checkpoint import load_base
from model.convert.gguf_write import write_gguf as write

_DTYPES = {"f16": "fp16", "q8_0": "q8_0"}


def write_gguf(files: Files, kind: str) -> Path:
    """The file of that kind, written if it is not there.

    Of a checkpoint f16 and q8_0 are possible; of a GGUF file also q4_0, which is then requantized.
    """
    source = files.penwright
    if source.is_file():
        return made(files.gguf(kind), lambda out: requantize(source, out, kind))
    return made(
        files.gguf(kind), lambda out: write(out, load_base(source), _DTYPES[kind], "random")
    )


def requantize(source: Path, out: Path, kind: str) -> None:
    """Let llama.cpp write a GGUF file's weights in another kind, q8_0 or q4_0."""
    from llama_cpp import llama_cpp as c

    kinds = {"q8_0": c.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": c.LLAMA_FTYPE_MOSTLY_Q4_0}
    params = c.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = kinds[kind], True
    code = c.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    assert code == 0, f"llama_model_quantize gives {code}"
