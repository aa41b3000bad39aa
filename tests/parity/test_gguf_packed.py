"""Blocks of 4 and of 8 bits are multiplied as a GGUF file has them."""

from itertools import product
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
    WIDE,
    assert_close,
    new_peer,
    our_logits,
    random_tokens,
)
from tests.parity.gguf_files import KINDS, stored, write_gguf

TOKENS = random_tokens(40)
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8, "Q4_K": 4}


@pytest.mark.parametrize("kind", BITS)
def test_a_block_becomes_the_numbers_that_it_stands_for(kind: str) -> None:
    """To the bit, whatever its scale: in fp16, -8 d has the digits of d."""
    chance = np.random.default_rng(0)
    numbers_of_block, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    blocks, columns = chance.integers(0, 256, (4096, size), dtype=np.uint8), 64 * numbers_of_block
    scales = chance.integers(0, 0x6C00, (4096, 2), dtype=np.uint16)  # to 4096, subnormal ones too
    scales |= chance.integers(0, 2, (4096, 2), dtype=np.uint16) << 15
    behind = 2 if kind in ("Q4_0", "Q8_0") else 4
    blocks[:, :behind] = scales.view(np.uint8)[:, :behind]
    found = packed(blocks, kind, (64, columns))
    assert found is not None
    goal = torch.from_numpy(gguf.dequantize(blocks, KINDS[kind])).view(64, columns)
    assert torch.equal(numbers(unpacked(found[0]), found[1]), goal)


@pytest.mark.parametrize(
    ("kind", "scale"), [("Q8_0", "inf"), ("Q4_1", "nan"), ("Q4_0", "9000"), ("Q4_K", "-inf")]
)
def test_what_has_no_scale_in_fp16_is_not_taken(kind: str, scale: str) -> None:
    each, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    blocks = np.zeros((6, size), dtype=np.uint8)
    assert packed(blocks, kind, (3, 2 * each)) is not None
    assert packed(blocks, kind, (6 * each,)) is None
    blocks[5, :2] = np.array([float(scale)], dtype=np.float16).view(np.uint8)
    assert packed(blocks, kind, (3, 2 * each)) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [*product(ONE_OF_EACH, ["Q4_0", "Q4_1", "Q8_0"]), ("gpt2", "Q4_K"), ("wide", "Q4_K")],
)
def test_a_network_is_multiplied_as_the_file_has_it(name: str, kind: str, tmp_path: Path) -> None:
    case = WIDE if name == "wide" else CASES[name]
    path = write_gguf(tmp_path / "x.gguf", new_peer(case), kind)
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


@pytest.mark.parametrize(
    ("kind", "other", "bits"),
    [
        *(("Q4_0", "Q4_1", 4), ("Q4_0", "Q8_0", 8), ("Q4_0", "Q5_0", 8), ("Q4_0", "F16", 8)),
        *(("Q4_K", "Q4_K", 4), ("Q4_K", "Q4_1", 8), ("Q4_K", "Q6_K", 8)),
    ],
)
def test_parts_of_one_matrix_have_blocks_of_one_form(
    kind: str, other: str, bits: int, tmp_path: Path
) -> None:
    """Else all of them get 8 bits, as what has no blocks: so of a file in Q4_K_M, some of whose
    values are in Q6_K."""

    def change(writer: Any) -> None:
        info = writer.tensors[0]["blk.0.attn_v.weight"]
        weight = torch.from_numpy(gguf.dequantize(info.tensor, info.dtype))
        info.tensor, info.dtype = stored(weight, other, "attn_v")
        info.nbytes = info.tensor.nbytes

    path = write_gguf(tmp_path / "x.gguf", new_peer(WIDE), kind, change=change)
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
        weight = exact.get_parameter("blocks.0.attention.qkv.weight").detach()
        off = (numbers(values, scale.detach()) - weight).norm() / weight.norm()
        assert model.weight_error >= float(off) * (1 - 1e-5)
        assert 0.001 < model.weight_error < 0.01
    else:
        assert model.weight_error == 0  # the embedding's 8 bits are the file's, too


def _bits(model: Transformer, block: int) -> int:
    layer = model.get_submodule(f"blocks.{block}.attention.qkv")
    assert isinstance(layer, QuantizedProjection)
    return layer.layer.bits
