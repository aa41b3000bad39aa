"""GPT-2 in llama.cpp's file format, from the Hugging Face directory."""

import ctypes
import json
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import llama_cpp as c
from safetensors.numpy import load_file

from benchmarks.gpt2 import Files, made

_FILE_TYPES = {"q8_0": c.LLAMA_FTYPE_MOSTLY_Q8_0}


def write_gguf(files: Files, kind: str) -> Path:
    """The file of that kind (f16 or q8_0), written if it is not there."""
    source = made(files.gguf("f16"), lambda out: _write_f16(out, files.hugging_face))
    if kind == "f16":
        return source
    return made(files.gguf(kind), lambda out: _quantize(source, out, _FILE_TYPES[kind]))


def _write_f16(out: Path, hugging_face: Path) -> None:
    config = json.loads((hugging_face / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, hugging_face, config["eos_token_id"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
    for name, value in load_file(hugging_face / "model.safetensors").items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert place, f"{name} has no place in GGUF"
        if ".h." in name and value.ndim == 2:
            value = value.T  # (out, in)
        # As their own converter: vectors and positions stay in fp32.
        matrix = value.ndim == 2 and "wpe" not in name
        writer.add_tensor(place, np.ascontiguousarray(value, np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, hugging_face: Path, end: int) -> None:
    vocabulary = json.loads((hugging_face / "vocab.json").read_text(encoding="utf-8"))
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [int(gguf.TokenType.NORMAL)] * len(tokens)
    kinds[end] = int(gguf.TokenType.CONTROL)
    merges = (hugging_face / "merges.txt").read_text(encoding="utf-8").split("\n")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([line for line in merges if line and not line.startswith("#version")])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


def _quantize(source: Path, out: Path, file_type: int) -> None:
    params = c.llama_model_quantize_default_params()
    params.ftype = file_type
    code = c.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    assert code == 0, f"llama_model_quantize gives {code}"
