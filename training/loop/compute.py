"""How many operations a token costs in training.

Counted as in Chowdhery et al., "PaLM" (2022), appendix B, after Kaplan et al. (2020): a weight
costs a token two operations forward, two to hand its gradient back, and two for its own gradient;
attention over T positions costs 4·d·T forward in each layer, and twice that backward. For a
network that learns as a whole this is

    6 N + 12 L d T       N weights, L layers with query heads of d in all, sequences of T tokens

where N has the output layer but not the embeddings, which are looked up. Frozen weights have no
gradient of their own, layers below the first that learns hand none back, and the output layer
counts for the share of positions that reach it. A head for labels is too small to count.
"""

import re
from dataclasses import dataclass

from torch import nn

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
    of_layers = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    own = {id(parameter) for parameter in model.parameters()}
    adapters = sum(
        parameter.numel()
        for name, parameter in trained.named_parameters()
        if id(parameter) not in own and "lora" in name.split(".")
    )
    found = [re.search(r"\bblocks[./](\d+)[./]", name) for name in names]
    touched = [int(match[1]) for match in found if match]
    first = min(touched, default=layers)
    roles = parameter_roles(trained)
    if any(roles[name] == "embedding" for name in names):
        first = 0
    output = outputs * model.output_weight.numel()
    blocks = sum(
        parameter.numel()
        for block in model.blocks
        for parameter in block.parameters()
        if parameter.requires_grad
    )
    return Compute(
        forward=sum(of_layers) + output + adapters,
        back=sum(of_layers[first:]) + output + adapters,
        learns=blocks + adapters + (output if model.output_weight.requires_grad else 0),
        attention=(4 * layers + 8 * (layers - first)) * width * length,
    )
