"""Frozen matrices held in less memory than fp32, as the base of a fine-tuning can be.

    how       a number takes   what is multiplied
    bf16      2 bytes          the numbers rounded to bf16: under bf16 autocast just what an fp32
                               matrix is rounded to for each product
    int8      1.06 bytes       whole numbers in [-127, 127] times a scale of each 32 inputs of a
                               channel, as `model.cpu.quantize` has them (Dettmers et al., "QLoRA",
                               2023, with these 8 bits in place of its 4)
    stored    as in the file   the file's own numbers
    packed    as in the file   the same, where a GGUF file has them in blocks that the kernels can
                               multiply: 4 or 8 bits and a scale (`model.convert.gguf_blocks`). For
                               `model.cpu.quantize.quantize`, which takes them as they are

The matrices of projections, the token embedding and the output head are held so; norms, biases and
learned positions are small, and stay in fp32. Where a product is computed in a wider type than its
matrix is held in, the matrix is widened for that product alone, and again for the gradient of the
input. Of a large one that is done a block of channels at a time: a block is all that there is of
wider copies. A frozen matrix has no gradient.

A token is looked up in the same matrix, and what is found is widened to fp32, in which the
residual stream stays: an fp32 copy for the lookup would be the largest tensor of a small network.
Files of these families hold bf16, whose numbers it finds as they are; of SmolLM2-135M's Q4_1 file,
which has finer ones, the loss of 2,040 tokens goes from 4.1949 to 4.1951 by it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.cpu.linear import GROUP, unpacked
from model.cpu.quantize import numbers, quantize_weight, return_freed_memory
from model.projection import Adapts, OutputHead, Projection, TokenEmbedding, linear, product_dtype
from model.transformer import Transformer

Held = Literal["fp32", "bf16", "int8", "stored", "packed"]
"""How the matrices of a network are held; see the module's docstring."""

_MOST = 2**24
"""Numbers of a matrix that are widened at once."""
_NAMES = {torch.bfloat16: "bf16", torch.int8: "int8", torch.float32: "fp32"}


def widened(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(out, in) in `dtype`, a copy unless it is held so.

    Args:
        scale: of 8-bit numbers, (out, groups) bf16; or of packed ones, as `numbers` takes it.
    """
    if scale is None:
        return weight.to(dtype)
    if scale.dtype != torch.bfloat16:  # it has digits that bf16 would lose
        return numbers(unpacked(weight), scale).to(dtype)
    inputs, scale = weight.shape[1], scale.to(dtype)
    if inputs % GROUP:
        return weight * scale.repeat_interleave(GROUP, 1)[:, :inputs]
    return (weight.view(len(weight), -1, GROUP) * scale[..., None]).view(weight.shape)


def output_matrix(model: Transformer) -> tuple[Tensor, Tensor | None]:
    """The output head of `model`, (vocab, n_embd), with its scale where it is held in 8 bits."""
    head = model.embedding if model.head is None else model.head
    return head.weight, getattr(head, "scale", None)


def _wide_blocks(
    weight: Tensor, scale: Tensor | None, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of the output channels, each widened when it is its turn."""
    most = _at_once(weight, dtype)
    for start in range(0, len(weight), most):
        block = slice(start, start + most)
        yield block, widened(weight[block], None if scale is None else scale[block], dtype)


def _at_once(weight: Tensor, dtype: torch.dtype) -> int:
    """Output channels of a block: all where nothing is to be widened."""
    return len(weight) if weight.dtype == dtype else max(1, _MOST // weight.shape[1])


def times(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """x Wᵀ + b in the dtype of `x`, without a gradient: (…, in) -> (…, out)"""
    parts = [
        linear(x, wide, None if bias is None else bias[block].to(x.dtype), tile)
        for block, wide in _wide_blocks(weight, scale, x.dtype)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def times_back(grad: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    """What `times` hands back to its input: (…, out) -> (…, in)"""
    parts = (grad[..., block] @ wide for block, wide in _wide_blocks(weight, scale, grad.dtype))
    out = next(parts)
    if _at_once(weight, grad.dtype) >= len(weight):
        return out
    out = out.float()  # each part is rounded once, their sum once more
    for part in parts:
        out += part
    return out.to(grad.dtype)


def frozen_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, tile: int | None
) -> Tensor:
    """x Wᵀ + b, as `model.projection.linear`, whatever W is held in."""
    dtype = product_dtype(x)
    if weight.dtype == dtype:
        return linear(x, weight, bias, tile)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return times(x.to(dtype), weight, scale, bias, tile)
    out: Tensor = _Product.apply(x.to(dtype), weight, scale, bias)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    """Keeps the matrix as it is held, and nothing of `x`: what is frozen needs no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return times(x, weight, scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight, scale = ctx.saved_tensors
        return times_back(grad, weight, scale), None, None, None


class FrozenProjection(Projection):
    """A projection whose matrix is held in another type than it is multiplied in."""

    scale: Tensor | None

    def forward(self, x: Tensor, adapters: Adapts | None = None) -> Tensor:
        if adapters is not None:
            x = x.to(product_dtype(x))  # once for all products
        y = frozen_linear(x, self.weight, self.scale, self.bias, self.tile)
        return y if adapters is None else adapters.adapt(self, x, y)

    def wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        return _wide_blocks(self.weight, self.scale, torch.float32)


class FrozenEmbedding(TokenEmbedding):
    """The same for a token embedding, which is the output head too where the two are tied."""

    scale: Tensor | None

    def forward(self, tokens: Tensor) -> Tensor:
        wanted = tokens.flatten()
        scale = None if self.scale is None else self.scale[wanted]
        rows = widened(self.weight[wanted], scale, torch.float32)
        return rows.view(*tokens.shape, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        return frozen_linear(hidden, self.weight, self.scale, None, self.tile)


class FrozenHead(OutputHead):
    """The same for an output head of its own."""

    scale: Tensor | None

    def logits(self, hidden: Tensor) -> Tensor:
        return frozen_linear(hidden, self.weight, self.scale, None, self.tile)


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    Projection: FrozenProjection,
    TokenEmbedding: FrozenEmbedding,
    OutputHead: FrozenHead,
}
_PLAIN = {frozen: plain for plain, frozen in _FROZEN.items()}


def has_matrix(module: nn.Module) -> bool:
    """Whether the `weight` of `module` is one of the matrices that are held in another type."""
    return type(module) in _FROZEN or type(module) in _PLAIN


def place(
    model: nn.Module, name: str, tensor: Tensor, held: Held, scale: Tensor | None = None
) -> None:
    """Give the parameter `name` of `model` the numbers of `tensor`, frozen.

    Args:
        scale: of packed numbers, which a matrix gets as they are.
    """
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if scale is not None:
        _take(owner, tensor, scale)
    elif leaf == "weight" and has_matrix(owner):
        _hold(owner, tensor, held)
    else:
        setattr(owner, leaf, nn.Parameter(tensor.float(), requires_grad=False))


@torch.no_grad()
def hold(model: Transformer, held: Held) -> None:
    """Turn the matrices of `model` into such as `held` says, one by one in place, and freeze it.

    From 8 bits there is no way back: `exchange` takes the numbers from elsewhere.
    """
    model.requires_grad_(False)
    for name in [path for path, module in model.named_modules() if has_matrix(module)]:
        owner = model.get_submodule(name)
        weight = owner.weight
        assert isinstance(weight, Tensor)
        if weight.dtype != torch.int8 and _NAMES.get(weight.dtype) != held:
            device = weight.device
            _hold(owner, weight.detach().cpu() if held == "int8" else weight.detach(), held)
            owner.to(device)
    return_freed_memory()


def exchange(models: list[Transformer], load: Callable[[], Transformer]) -> None:
    """Give `models` the matrices of the network that `load` gives, in place.

    Their own are let go before: there is never twice as much in memory.
    """
    for model in models:
        for module in model.modules():
            if has_matrix(module):
                old = module.weight
                assert isinstance(old, Tensor)
                empty = torch.empty(0, device=old.device)
                module.weight = nn.Parameter(empty, requires_grad=False)
                module._buffers.pop("scale", None)
    return_freed_memory()
    source = load()
    for path, theirs in source.named_modules():
        if has_matrix(theirs):
            found, scale = theirs.weight, getattr(theirs, "scale", None)
            assert isinstance(found, Tensor)
            for model in models:
                own = model.get_submodule(path)
                device = own.weight.device
                assert isinstance(device, torch.device)
                _take(own, found.detach().to(device), scale if scale is None else scale.to(device))


def _hold(owner: nn.Module, tensor: Tensor, held: Held) -> None:
    if held == "int8":
        _take(owner, *quantize_weight(tensor, grouped=True))
        return
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(held, tensor.dtype)
    # A copy, where it must outlive the file: what is mapped from one is changed with it.
    _take(owner, tensor.to(dtype, copy=held == "bf16"), None)


def _take(owner: nn.Module, weight: Tensor, scale: Tensor | None) -> None:
    """Let `owner` be of the class that its matrix needs."""
    plain = weight.dtype == torch.float32
    kind = _PLAIN.get(type(owner), type(owner))
    owner.__class__ = kind if plain else _FROZEN[kind]
    owner.weight = nn.Parameter(weight, requires_grad=False)
    owner._buffers.pop("scale", None)
    owner.register_buffer("scale", scale, persistent=False)
