"""A network whose weights are quantized: near to what it was, and verified as such."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from model.architecture import Architecture
from model.checkpoint import golden, load_base, save_base
from model.cpu import library, quantize
from model.cpu.linear import PackedLinear
from model.cpu.quantize import QuantizedProjection, TorchLinear
from model.cpu.quantized_blocks import QuantizedBlocks
from model.errors import CheckpointError, UsageError
from model.frozen import hold
from model.lora import LoRA, LoRASettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tests.model.layers import kernel_or_skip, normal


@pytest.fixture(params=[4, 2])
def config(request: pytest.FixtureRequest, config: Architecture) -> Architecture:
    """With heads of 8 dimensions, whose blocks stay apart, and of 16."""
    return replace(config, n_head=request.param, n_kv_head=0, head_dim=0)


@pytest.fixture
def trained(model: Transformer) -> Transformer:
    """With weights as large as a trained network has them."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
            parameter.copy_(parameter.bfloat16())  # as a checkpoint stores them
    return model


def block_of(model: Transformer, number: int) -> Module:
    return (
        model.blocks[0].blocks if isinstance(model.blocks[0], QuantizedBlocks) else model.blocks
    )[number]


def copy_of(model: Transformer) -> Transformer:
    copy = Transformer(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


@torch.inference_mode()
def loss_of(model: Transformer, tokens: Tensor) -> float:
    logits = model.logits(model(tokens[:, :-1]))
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_loss_stays(
    trained: Transformer, tied: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        kernel_or_skip()
    else:
        monkeypatch.setattr(library, "load", lambda: None)
    if not tied:
        trained = Transformer(replace(trained.config, tied=False)).eval()
        trained.init_weights(torch.Generator().manual_seed(1))
    quantized = copy_of(trained)
    quantize.quantize(quantized)
    assert (quantized.quantized, trained.quantized) == (8, 0)
    tokens = torch.randint(0, 261, (16, 32), generator=torch.Generator().manual_seed(8))
    # 1% of perplexity, which is e to the loss
    assert abs(loss_of(quantized, tokens) - loss_of(trained, tokens)) < 0.01


@pytest.mark.parametrize("compiled", [True, False])
def test_in_4_bits(trained: Transformer, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All projections, held in 8 bits or not; neither the embedding nor the output head."""
    if compiled:
        kernel_or_skip()
    else:
        monkeypatch.setattr(library, "load", lambda: None)
    quantized, held = copy_of(trained), copy_of(trained)
    quantize.quantize(quantized, bits=4)
    assert quantized.quantized == 4
    assert quantize.weights_of(quantized) == "int4, int8"
    kinds = (QuantizedProjection, quantize.QuantizedEmbedding)
    for module in quantized.modules():
        if isinstance(module, kinds):
            assert module.layer.bits == (4 if isinstance(module, QuantizedProjection) else 8)
    tokens = torch.randint(0, 261, (16, 32), generator=torch.Generator().manual_seed(8))
    # Its weights are random, and so less forgiving than a trained network's.
    assert abs(loss_of(quantized, tokens) - loss_of(trained, tokens)) < 0.1
    hold(held, "int8")
    quantize.quantize(held, bits=4)
    assert quantize.weights_of(held) == "int4, int8"
    assert abs(loss_of(held, tokens) - loss_of(quantized, tokens)) < 0.05


def test_no_matrix_and_no_slow_gelu_stays(trained: Transformer) -> None:
    kernel_or_skip()
    quantize.quantize(trained)
    assert not any(isinstance(module, torch.nn.GELU) for module in trained.modules())
    left = {name for name, p in trained.named_parameters() if p.ndim > 1}
    assert left == {"positions.weight"}
    assert isinstance(block_of(trained, 1).get_submodule("mlp.up"), QuantizedProjection)


def test_quantizing_from_bf16_is_the_same(trained: Transformer) -> None:
    half = copy_of(trained).bfloat16()
    quantize.quantize(half)
    quantize.quantize(trained)
    assert half.dtype == torch.float32
    tokens = torch.arange(32)[None]
    assert torch.equal(half.logits(half(tokens)), trained.logits(trained(tokens)))


def test_adapters_act_on_a_quantized_network(trained: Transformer) -> None:
    lora = LoRA(trained.config, LoRASettings(rank=4))
    with torch.no_grad():
        for i, parameter in enumerate(lora.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i) * 0.1)
    quantized = copy_of(trained)
    quantize.quantize(quantized)
    tokens = torch.arange(32)[None]
    with torch.inference_mode():
        plain = quantized(tokens)
        adapted, goal = quantized(tokens, adapters=lora), trained(tokens, adapters=lora)
    assert (adapted - goal).norm() < 0.1 * (adapted - plain).norm()
    assert torch.equal(quantized(tokens), plain)


def test_golden_outputs_hold_and_a_wrong_scale_shows(
    trained: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_base(tmp_path / "base", trained, tokenizer, card={})
    base = load_base(tmp_path / "base", dtype=torch.bfloat16)
    quantize.quantize(base.model)
    expected = base.card["golden"]
    assert golden.verify("base", expected, base.model, tokenizer) <= golden.INT8_BOUND
    layer = block_of(base.model, 0).get_submodule("mlp.down").layer
    assert isinstance(layer, PackedLinear | TorchLinear)
    layer.scale *= 3
    with pytest.raises(CheckpointError, match="differs from its card"):
        golden.verify("base", expected, base.model, tokenizer)


def test_only_a_cpu_is_quantized(config: Architecture) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    with pytest.raises(UsageError, match="for the CPU"):
        quantize.quantize(model)
