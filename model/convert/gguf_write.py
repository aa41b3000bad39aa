"""llama.cpp's file format, GGUF, written.

Matrices are stored as asked, positions, norms and biases in fp32, as llama.cpp's own converter
does. An output head of its own is written as one; a tied head is left out, and llama.cpp takes the
embedding. The instruction template travels as the chat template.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Base
from model.convert.families import GGUF_GPT2, require_gpt2, their_names
from model.convert.gguf_tokenizer import add_tokenizer
from model.convert.hf_write import CHAT_TEMPLATE
from model.errors import UsageError

ARCHITECTURE = "gpt2"
TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""What each `--dtype` is called there."""
_FILE_TYPES = {"fp32": 0, "fp16": 1, "bf16": 32, "q8_0": 7}
_BLOCK = 32
"""Numbers of a row that share a scale in Q8_0."""


def write_gguf(path: Path, base: Base, dtype: str, name: str = "penwright") -> None:
    """Write the language model as one file.

    Args:
        base: loaded in fp32 on the CPU, without an adapter.
        dtype: a key of `TYPES`.
        name: of the model, for programs that show it.

    Raises:
        UsageError: the tokenizer, the head, the width or the family has no form there.
    """
    require_gpt2(base.config, "--format gguf")
    config = base.config
    if base.head is not None:
        raise UsageError("--format gguf: GPT-2 in GGUF has no classification head; use hf")
    if dtype == "q8_0" and config.n_embd % _BLOCK:
        raise UsageError(
            f"--dtype q8_0 needs a width divisible by {_BLOCK}, but n_embd is {config.n_embd}; "
            "fp16 is possible"
        )
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[dtype])
        if dtype == "q8_0":
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_block_count(config.n_layer)
        writer.add_context_length(config.context_length)
        writer.add_embedding_length(config.n_embd)
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(1e-5)
        writer.add_vocab_size(config.vocab_size)
        writer.add_string("penwright.task", base.task)
        writer.add_string("penwright.checkpoint", base.id)
        add_tokenizer(writer, base.tokenizer, config.vocab_size)
        if base.task == "instruct":
            writer.add_chat_template(CHAT_TEMPLATE)
        for place, tensor, kind in _tensors(base, dtype):
            writer.add_tensor(place, tensor, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _tensors(base: Base, dtype: str) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, content and type of each tensor."""
    wanted = gguf.GGMLQuantizationType[TYPES[dtype]]
    for name, parameter in base.model.state_dict().items():
        [theirs] = their_names(GGUF_GPT2, name)
        matrix = parameter.ndim == 2 and not name.startswith("positions")
        kind = wanted if matrix else gguf.GGMLQuantizationType.F32
        content = np.ascontiguousarray(parameter.float().numpy())
        yield theirs, gguf.quants.quantize(content, kind), kind
