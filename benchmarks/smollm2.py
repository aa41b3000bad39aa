"""SmolLM2-135M-Instruct, the real file, for the systems that are compared on it.

`make weights` fetches it. llama.cpp reads it as it is (Q4_1), and requantized by its own tool.
"""

import ctypes
from pathlib import Path

from benchmarks.gpt2 import made
from model.checkpoint.weights_folder import weights_folder

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCAB = 49152


def file() -> Path:
    """The file, in the folder that PENWRIGHT_WEIGHTS names.

    Raises:
        SystemExit: it is not there.
    """
    path = weights_folder() / NAME
    if not path.is_file():
        raise SystemExit(f"{path} is not there: run `make weights`")
    return path


def requantized(work: Path, kind: str) -> Path:
    """The same weights as llama.cpp writes them in another kind: q4_1 is the file itself."""
    if kind == "q4_1":
        return file()
    from llama_cpp import llama_cpp as c

    kinds = {"q8_0": c.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": c.LLAMA_FTYPE_MOSTLY_Q4_0}

    def write(out: Path) -> None:
        params = c.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = kinds[kind], True
        given = str(file()).encode(), str(out).encode()
        code = c.llama_model_quantize(*given, ctypes.byref(params))
        assert code == 0, f"llama_model_quantize gives {code}"

    return made(work / "gguf" / f"smollm2-{kind}.gguf", write)
