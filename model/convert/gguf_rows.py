"""The rows that GGUF has in another order than all others.

Llama's queries and keys are stored there with the pairs of a head side by side, where this project
and everyone else has them half a head apart.
"""

from torch import Tensor

from model.architecture import Architecture

LLAMA = "llama"
"""The one family there whose pairs are side by side, and whose frequencies may have divisors."""


def heads_side_by_side(family: str, name: str, config: Architecture) -> int:
    """How many heads of the tensor `name` have their pairs side by side; 0 for none."""
    if family != LLAMA:
        return 0
    if ".attn_q." in name:
        return config.n_head
    return config.n_kv_head if ".attn_k." in name else 0


def halves(rows: Tensor, heads: int) -> Tensor:
    """(heads × dim, …) with the pairs of a head side by side -> with them half a head apart."""
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)


def side_by_side(rows: Tensor, heads: int) -> Tensor:
    """The way back."""
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)
