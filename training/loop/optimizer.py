"""The optimizers: AdamW, or Muon on the matrices of the blocks with AdamW on all else.

Decay applies to matrices only: not to biases, norms and embeddings. An output layer of its own, a
head and the matrices of adapters decay, and AdamW learns them. Muon (Jordan et al., 2024)
orthogonalises each matrix's momentum; PyTorch's own is used, with the scaling of Liu et al. (2025)
that lets it share AdamW's learning rate.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import UsageError
from model.transformer import Block, parameter_roles

OPTIMIZERS = ("adamw", "muon")


class Optimizer:
    """One or two torch optimizers that step together."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        *,
        kind: str,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        if kind not in OPTIMIZERS:
            raise UsageError(f"--optimizer is {kind!r}; it must be one of {', '.join(OPTIMIZERS)}")
        self.lr = lr
        modules = list(modules)
        learning = [
            (parameter, roles[name])
            for module in modules
            for roles in [parameter_roles(module)]
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        self.parameters = [parameter for parameter, _ in learning]
        matrices = [parameter for parameter, role in learning if role == "matrix"]
        rest = [parameter for parameter, role in learning if role != "matrix"]
        self.optimizers: list[torch.optim.Optimizer] = []
        if kind == "muon":
            inner = _of_blocks(modules)
            orthogonal = [parameter for parameter in matrices if id(parameter) in inner]
            matrices = [parameter for parameter in matrices if id(parameter) not in inner]
            if orthogonal:
                self.optimizers.append(
                    torch.optim.Muon(
                        orthogonal, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                    )
                )
        groups: list[dict[str, Any]] = [
            {"params": rest, "weight_decay": 0.0},
            {"params": matrices, "weight_decay": weight_decay},
        ]
        groups = [group for group in groups if group["params"]]
        if groups:
            # Fused: one pass over the memory of all parameters.
            self.optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True))

    def step(self, factor: float) -> None:
        """One step at `factor` times the peak learning rate; gradients are dropped."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def clip(self, norm: float) -> Tensor:
        """Scale the gradients to a total norm of at most `norm`; returns the norm before."""
        before = nn.utils.clip_grad_norm_(self.parameters, norm)
        # Of sharded gradients it is a sum that is still to be taken.
        return before.full_tensor() if hasattr(before, "full_tensor") else before

    def parameters_of_states(self) -> dict[str, Tensor]:
        """The parameter that `state_dict()[n]["state"][i]` belongs to, as `optimizer.n.i`."""
        return {
            f"optimizer.{number}.{index}": parameter
            for number, optimizer in enumerate(self.optimizers)
            for index, parameter in enumerate(
                p for group in optimizer.param_groups for p in group["params"]
            )
        }

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def fits(self, states: list[dict[str, Any]]) -> bool:
        """Whether `states` are of as many parameters, in the same groups of the same optimizers."""
        return _groups(states) == _groups(self.state_dict())

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _of_blocks(modules: Iterable[nn.Module]) -> set[int]:
    """The ids of the parameters of all blocks."""
    return {
        id(parameter)
        for module in modules
        for block in module.modules()
        if isinstance(block, Block)
        for parameter in block.parameters()
    }


def _groups(states: list[dict[str, Any]]) -> list[list[tuple[bool, int]]]:
    """Of each optimizer: whether it is AdamW, and how many parameters each of its groups has."""
    return [
        [("betas" in group, len(group["params"])) for group in state["param_groups"]]
        for state in states
    ]
