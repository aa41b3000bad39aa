"""A network made ready for training, as the settings of the loop want its blocks.

With activation checkpointing, blocks keep their input alone and are computed again backward. A step
then holds the activations of one block at a time, for a third more computing (Chen et al., Training
Deep Nets with Sublinear Memory Cost, 2016). Dropout draws the same numbers both times, so gradients
are the same to the bit on a CPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.transformer import Block, Transformer
from training.loop.settings import LoopSettings


def prepare(model: Transformer, settings: LoopSettings) -> None:
    """Let the blocks forget their activations, or compile them; weights and names stay.

    Blocks are compiled one by one: they are alike, so the compiler's work is done once.
    """
    if settings.checkpoint_activations:
        checkpoint_activations(model)
    if settings.compile:
        for block in model.blocks:
            block.compile()


class CheckpointedBlock(Block):
    """A block that forgets what it computed; without gradients it is an ordinary one."""

    def forward(self, *args: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*args)
        out: Tensor = checkpoint(super().forward, *args, use_reentrant=False)
        return out


def checkpoint_activations(model: Transformer) -> None:
    """Let every block of `model` forget its activations; its weights and their names stay."""
    for block in model.blocks:
        block.__class__ = CheckpointedBlock
