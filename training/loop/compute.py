"""How many operations a token costs in training.

Counted as in Chowdhery et al., "PaLM" (2022), appendix B, after Kaplan et al. (2020): a weight
costs a token two operations forward, two to hand its gradient back, and two for its own gradient;
attention over T positions costs 4·d·T forward in each layer, and twice that backward. For a
network that learns as a whole this is

    6 N + 12 L d T       N weights, L layers with query heads of d in all, sequences of T tokens

where N has the matrices of the blocks and the output layer, but not the embeddings, which are
looked up. Frozen weights have no gradient of their own, layers below the first that learns hand
none back, nor does the first product of that layer where the norm before it is frozen, and the
output layer counts for the share of positions that reach it. A head for labels is too small to
count.

`counted_flops` counts the operations that are done. They are fewer where attention over more than
one block of positions leaves out what is above the diagonal, and more where the logits of an output
layer that learns, or blocks with `--checkpoint-activations`, are computed again.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.lora import LoRA
from model.transformer import Transformer, parameter_roles


@dataclass(frozen=True)
class Compute:
    """What a token costs: how many weights it meets, and the operations of attention."""

    forward: float
    """Weights that it is multiplied by."""
    back: float
    """Those among them that hand a gradient back."""
    learns: float
    """Those that get one."""
    attention: float
    """Operations of attention, forward and backward."""

    @property
    def flops(self) -> float:
        """Floating-point operations a token, in a training step."""
        return 2 * (self.forward + self.back + self.learns) + self.attention


def count(model: Transformer, trained: nn.Module, length: float, outputs: float) -> Compute:
    """The compute of a token; see the module's docstring.

    Args:
        trained: holds what learns; adapters, too.
        length: tokens of a sequence.
        outputs: share of the positions that reach the output layer.
    """
    names = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    layers, width = len(model.blocks), model.config.query_width
    of_layers = [_multiplied(block) for block in model.blocks]
    pairs = [_pairs(lora) for lora in trained.modules() if isinstance(lora, LoRA)]
    adapters = sum(a + b for each in pairs for a, b in each.values())
    found = [re.search(r"\bblocks[./](\d+)[./]", name) for name in names]
    touched = [int(match[1]) for match in found if match]
    first = min(touched, default=layers)
    roles = parameter_roles(trained)
    unasked = 0  # weights of the first product that hand nothing to the frozen norm before it
    if any(roles[name] == "embedding" for name in names):
        first = 0
    elif first < layers and f"model.blocks.{first}.attention_norm.weight" not in names:
        path = f"blocks.{first}.attention.qkv"
        qkv = dict(model.projections())[path].weight
        unasked = qkv.numel() + sum(each[path][0] for each in pairs if path in each)
    output = outputs * model.output_weight.numel()
    blocks = sum(
        parameter.numel()
        for block in model.blocks
        for parameter in block.parameters()
        if parameter.requires_grad and parameter.ndim == 2
    )
    return Compute(
        forward=sum(of_layers) + output + adapters,
        back=sum(of_layers[first:]) + output + adapters - unasked if names else 0.0,
        learns=blocks + adapters + (output if model.output_weight.requires_grad else 0),
        attention=(4 * layers + 8 * (layers - first)) * width * length,
    )


def _multiplied(block: nn.Module) -> int:
    """The weights of a block that are multiplied by: its matrices."""
    return sum(p.numel() for p in block.parameters() if p.ndim == 2)


def _pairs(lora: LoRA) -> dict[str, tuple[int, int]]:
    """How many numbers A and B have by which an adapter changes each projection: the sites of one
    are multiplied together, each with zeros in the channels of the others."""
    found: dict[str, tuple[int, int]] = {}
    for site in lora.sites:
        rank = len(lora.sites_of(site.path)) * lora.settings.rank
        found[site.path] = (rank * site.in_features, rank * site.width)
    return found


def counted_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of all products that `function` computes, forward and backward, as
    PyTorch counts them; products in place, and attention's on a CPU, are added to what it knows."""
    aten: Any = torch.ops.aten
    more = {
        aten.addmm_: _product,
        aten.baddbmm_: _product,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        function()
    return int(counter.get_total_flops())


Shape = tuple[int, ...]


def _product(into: Shape, a: Shape, b: Shape, **options: Any) -> int:
    """(…, n, k) times (…, k, m)"""
    return 2 * math.prod(a) * b[-1]


def _attention(query: Shape, key: Shape, *rest: Any, **options: Any) -> int:
    """(batch, head, time, head_dim): the scores, and the values weighted by them."""
    return 4 * math.prod(query) * key[-2]


def _attention_back(grad: Shape, query: Shape, key: Shape, *rest: Any, **options: Any) -> int:
    """Five products, of which one is the scores once more."""
    return 10 * math.prod(query) * key[-2]
