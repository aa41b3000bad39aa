"""llama.cpp's file format, GGUF, written.

Matrices are stored as asked, positions, norms and biases in fp32, as llama.cpp's own converter
does. An output head of its own is written as one; a tied head is left out, and llama.cpp takes the
embedding. The prompt template travels as the chat template.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from model.architecture import Architecture
from model.checkpoint import Base
from model.convert.families import FAMILIES, family_of, their_names
from model.convert.gguf_config import DIVISORS, add_architecture, divisors_of
from model.convert.gguf_rows import heads_side_by_side, side_by_side
from model.convert.gguf_tokenizer import add_tokenizer
from model.convert.tensors import taken_apart, widths_of
from model.errors import UsageError

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
    config = base.config
    family = family_of(config, "--format gguf")
    if base.head is not None:
        raise UsageError("--format gguf: has no form for a classification head; use hf")
    if dtype == "q8_0":
        _check_widths(config)
    divisors = divisors_of(config, family)
    writer = gguf.GGUFWriter(path, family)
    try:
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[dtype])
        if dtype == "q8_0":
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_architecture(writer, config, family)
        writer.add_vocab_size(config.vocab_size)
        writer.add_string("penwright.task", base.task)
        writer.add_string("penwright.checkpoint", base.id)
        named = None if base.template is None else base.template.named_tokens()
        add_tokenizer(writer, base.tokenizer, config.vocab_size, named)
        if base.template is not None:
            writer.add_chat_template(base.template.jinja())
        if divisors is not None:
            writer.add_tensor(DIVISORS, divisors.numpy())
        for place, tensor, kind in _tensors(base, family, dtype):
            writer.add_tensor(place, tensor, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _check_widths(config: Architecture) -> None:
    """Refuse rows that cannot be cut into blocks."""
    widths = {
        "n_embd": config.n_embd,
        "n_head × head_dim": config.query_width,
        "mlp_width": config.mlp_width,
    }
    for name, width in widths.items():
        if width % _BLOCK:
            raise UsageError(
                f"--dtype q8_0 needs widths divisible by {_BLOCK}, but {name} is {width}; "
                "fp16 is possible"
            )


def _tensors(base: Base, family: str, dtype: str) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, content and type of each tensor."""
    wanted = gguf.GGMLQuantizationType[TYPES[dtype]]
    weights, table = base.model.state_dict(), FAMILIES[family].gguf
    positions = their_names(table, "positions.weight") if "positions" in table else ()
    for name, tensor in taken_apart(weights, table, widths_of(base.model)):
        matrix = tensor.ndim == 2 and name not in positions
        kind = wanted if matrix else gguf.GGMLQuantizationType.F32
        heads = heads_side_by_side(family, name, base.config)
        rows = side_by_side(tensor, heads) if heads else tensor
        content = np.ascontiguousarray(rows.float().numpy())
        yield name, gguf.quants.quantize(content, kind), kind
