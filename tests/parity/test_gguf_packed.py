"""Blocks of 4 and of 8 bits are multiplied as a GGUF file has them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from model.convert.gguf_blocks import packed
from model.convert.gguf_read import read_gguf
from model.cpu.linear import unpacked
from model.cpu.quantize import (
    QuantizedEmbedding,
    QuantizedProjection,
    TorchLinear,
    numbers,
    quantize,
    quantize_weight,
    weights_of,
)
from model.frozen import has_matrix, widened
from model.transformer import Transformer
from tests.model.layers import kernel_or_skip
from tests.parity.families import (
    CASES,
    ONE_OF_EACH,
    assert_close,
    new_peer,
    our_logits,
    random_tokens,
)
from tests.parity.gguf_files import KINDS, write_gguf

TOKENS = random_tokens(40)
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}


@pytest.mark.parametrize("kind", BITS)
def test_a_block_becomes_the_numbers_that_it_stands_for(kind: str) -> None:
    """To the bit, whatever its scale: in fp16, -8 d has the digits of d."""
    chance = np.random.default_rng(0)
    size = gguf.GGML_QUANT_SIZES[KINDS[kind]][1]
    blocks = chance.integers(0, 256, (4096, size), dtype=np.uint8)
    scales = chance.integers(0, 0x6C00, (4096, 2), dtype=np.uint16)  # to 4096, subnormal ones too
    scales |= chance.integers(0, 2, (4096, 2), dtype=np.uint16) << 15
    behind = 4 if kind == "Q4_1" else 2
    blocks[:, :behind] = scales.view(np.uint8)[:, :behind]
    found = packed(blocks, kind, (64, 2048))
    assert found is not None
    goal = torch.from_numpy(gguf.dequantize(blocks, KINDS[kind])).view(64, 2048)
    assert torch.equal(numbers(unpacked(found[0]), found[1]), goal)


@pytest.mark.parametrize(("kind", "scale"), [("Q8_0", "inf"), ("Q4_1", "nan"), ("Q4_0", "9000")])
def test_what_has_no_scale_in_fp16_is_not_taken(kind: str, scale: str) -> None:
    blocks = np.zeros((6, gguf.GGML_QUANT_SIZES[KINDS[kind]][1]), dtype=np.uint8)
    assert packed(blocks, kind, (3, 64)) is not None
    assert packed(blocks, kind, (192,)) is None
    blocks[5, :2] = np.array([float(scale)], dtype=np.float16).view(np.uint8)
    assert packed(blocks, kind, (3, 64)) is None


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_network_is_multiplied_as_the_file_has_it(name: str, kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", new_peer(CASES[name]), kind)
    exact, model = read_gguf(path).model, read_gguf(path, held="packed").model
    matrices = {path: module for path, module in model.named_modules() if has_matrix(module)}
    own = {path for path, module in matrices.items() if _scale(module) is not None}
    assert own, "rows that a block divides"
    for name, module in matrices.items():
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        whole = exact.get_parameter(f"{name}.weight")
        assert torch.equal(widened(weight, _scale(module), torch.float32), whole), name
    assert torch.equal(our_logits(model, TOKENS), our_logits(exact, TOKENS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.cpu.library.load", lambda: None)
        quantize(model)
    for name in own:
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantizedProjection | QuantizedEmbedding)
        assert isinstance(layer.layer, TorchLinear)
        assert layer.layer.bits == BITS[kind]
        whole = exact.get_parameter(f"{name}.weight")
        assert torch.equal(layer.layer.rows(torch.arange(len(whole))), whole), name
    rest = "int4, int8" if len(own) < len(matrices) else "int4"
    assert weights_of(model) == ("int8" if kind == "Q8_0" else rest)
    compiled = read_gguf(path, held="packed").model
    quantize(compiled, kernel_or_skip())
    assert weights_of(compiled) == weights_of(model)
    # The cache of the compiled blocks is in bf16, which is all that they differ in.
    assert_close(our_logits(compiled, TOKENS), our_logits(model, TOKENS), 0.1)


def _scale(module: nn.Module) -> torch.Tensor | None:
    scale: torch.Tensor | None = getattr(module, "scale", None)
    return scale


@pytest.mark.parametrize(("other", "bits"), [("Q4_1", 4), ("Q8_0", 8), ("Q5_0", 8), ("F16", 8)])
def test_parts_of_one_matrix_are_of_as_many_bits(other: str, bits: int, tmp_path: Path) -> None:
    """Else all of them get 8, as what has no blocks."""

    def change(writer: Any) -> None:
        info = writer.tensors[0]["blk.0.attn_v.weight"]
        weight = gguf.dequantize(info.tensor, info.dtype)
        info.tensor, info.dtype = gguf.quantize(weight, KINDS[other]), KINDS[other]
        info.nbytes = info.tensor.nbytes

    path = write_gguf(tmp_path / "x.gguf", new_peer(CASES["llama-groups"]), "Q4_0", change=change)
    model, exact = read_gguf(path, held="packed").model, read_gguf(path).model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.cpu.library.load", lambda: None)
        quantize(model)
    assert [_bits(model, number) for number in range(2)] == [bits, 4]
    if bits == 8:
        layer = model.get_submodule("blocks.0.attention.qkv").layer
        assert isinstance(layer, TorchLinear)
        values, scale = quantize_weight(
            exact.get_parameter("blocks.0.attention.qkv.weight"), grouped=True
        )
        assert torch.equal(layer.values, values)
        assert torch.equal(layer.scale, scale)


def _bits(model: Transformer, block: int) -> int:
    layer = model.get_submodule(f"blocks.{block}.attention.qkv")
    assert isinstance(layer, QuantizedProjection)
    return layer.layer.bits
