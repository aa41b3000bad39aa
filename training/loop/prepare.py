"""A network made ready for training, as the settings of the loop want its blocks."""

from model.transformer import Transformer
from training.loop.activations import checkpoint_activations
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
