"""Cross-entropy over tokens, without holding the logits of all of them at once.

They are computed in chunks of rows. Where the output layer learns and there are several, autograd
keeps none of them: each is computed again when its gradient is (as blocks are in
`training.loop.prepare`). That costs one more product with the output layer; the gradients are the
same to the bit.

Where it is frozen, a chunk's gradient is computed beside its losses, while its logits are there;
the gradient of the hidden states is all that is kept (Hsu et al., "Liger Kernel", 2024, section
3.2): a product and a softmax less, and gradients that are the same within rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from model.cpu import gradients
from model.cpu.library import load
from model.frozen import output_matrix, times, times_back
from model.projection import product_dtype
from model.transformer import Transformer
from training.loop.task import IGNORE

_ROWS, _LOGITS = 1024, 1024 * 8192
"""The most rows and logits of a chunk, which at 8,192 tokens is 34 MB."""
_BYTES = 2**26
"""Of a chunk's logits where the output layer is frozen, which have no fp32 copy beside them."""
_CACHED = 2**18
"""Logits that are turned into a gradient at once: in fp32 they stay in a core's own cache."""
_LEAST = 32
"""The fewest rows: below, the product with the output layer is slow."""


def token_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Sum of the cross-entropy over the targets that count, and how many they are.

    Positions whose target is `IGNORE` do not reach the output layer.

    Args:
        hidden: (batch, time, n_embd)
        targets: (batch, time) int64
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    counted = targets != IGNORE
    count = int(counted.sum())
    if count < len(targets):
        hidden, targets = hidden[counted], targets[counted]
    if _only_hidden_learns(model, hidden):
        return token_losses(model, hidden, targets).sum(), count
    total = hidden.new_zeros((), dtype=torch.float32)
    for part in _in_chunks(_sum, model, hidden, targets):
        total = total + part
    return total, count


def token_losses(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each target by itself, in the same chunks.

    Args:
        hidden: (n, n_embd)
        targets: (n,) int64, all of them real

    Returns:
        (n,) fp32
    """
    if _only_hidden_learns(model, hidden):
        return _FrozenLosses.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, *output_matrix(model), targets, product_dtype(hidden)
        )
    return torch.cat(list(_in_chunks(_each, model, hidden, targets)))


def _only_hidden_learns(model: Transformer, hidden: Tensor) -> bool:
    """Whether a gradient is wanted, and of the hidden states alone."""
    wanted = torch.is_grad_enabled() and hidden.requires_grad
    return wanted and not model.output_weight.requires_grad


class _FrozenLosses(torch.autograd.Function):
    """The losses of `token_losses`, with the gradient of each row computed at once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        rows = min(_ROWS, max(_LEAST, _BYTES // (len(weight) * dtype.itemsize)))
        parts = (torch.split(each, rows) for each in (hidden, targets, gradient, losses))
        for part, goal, into, loss in zip(*parts, strict=True):
            logits = times(part.to(dtype), weight, scale)
            _to_gradient(logits, goal, loss)
            into.copy_(times_back(logits, weight, scale))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None].to(gradient.dtype), None, None, None, None


def chunk_rows(vocab_size: int) -> int:
    """Rows of a chunk: the larger the vocabulary, the fewer."""
    return min(_ROWS, max(_LEAST, _LOGITS // vocab_size))


def _to_gradient(logits: Tensor, goal: Tensor, loss: Tensor) -> None:
    """Fill in the losses of the rows, and turn their logits into the gradient of these: the
    probabilities, less one at the target."""
    kernel = load()
    if kernel is not None and logits.is_cpu and logits.dtype in gradients.DTYPES:
        gradients.cross_entropy(kernel, logits, goal, loss)
        return
    few = max(1, _CACHED // logits.shape[1])
    for rows, at, into in zip(
        *(torch.split(x, few) for x in (logits, goal[:, None], loss)), strict=True
    ):
        log_probs = torch.log_softmax(rows.float(), dim=-1)
        into.copy_(log_probs.gather(1, at)[:, 0].neg_())
        slope = log_probs.exp_()
        slope.scatter_add_(1, at, slope.new_full(at.shape, -1.0))
        rows.copy_(slope)


def _in_chunks(
    function: Callable[[Transformer, Tensor, Tensor], Tensor],
    model: Transformer,
    hidden: Tensor,
    targets: Tensor,
) -> Iterator[Tensor]:
    """`function` of one chunk after another, which keeps no logits for the backward pass."""
    rows = chunk_rows(model.config.vocab_size)
    again = torch.is_grad_enabled() and len(hidden) > rows
    for part, goal in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
        if again:
            # Nothing in here draws random numbers.
            yield checkpoint(
                function, model, part, goal, use_reentrant=False, preserve_rng_state=False
            )
        else:
            yield function(model, part, goal)


def _sum(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(hidden).float(), targets, reduction="sum")


def _each(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(hidden).float(), targets, reduction="none")


def row_log_probs(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """For each row, the log-probabilities of its targets that count, summed.

    Args:
        hidden: (batch, time, n_embd)
        targets: (batch, time) int64

    Returns:
        (batch,) fp32
    """
    rows, places = (targets != IGNORE).nonzero(as_tuple=True)
    losses = token_losses(model, hidden[rows, places], targets[rows, places])
    return hidden.new_zeros(len(targets), dtype=torch.float32).index_add(0, rows, -losses)
