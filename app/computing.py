"""On what the models compute, and in which precision: what `auto` in the settings comes to."""

import torch

from app.settings import Settings
from model.cpu import library
from model.errors import UsageError


def device(settings: Settings) -> torch.device:
    """Where the models run.

    Raises:
        UsageError: a GPU is asked for and there is none that torch can use.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UsageError("--device is 'cuda', but torch finds no usable GPU; give cpu or auto")
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


def weight_bits(settings: Settings) -> int | None:
    """How many bits the weights are to have, 8 or 4; None where they stay floats."""
    if settings.quantize != "auto":
        return {"none": None, "int8": 8, "int4": 4}[settings.quantize]
    on_cpu = device(settings).type == "cpu" and settings.dtype == "auto"
    return 8 if on_cpu and library.load() is not None else None


def dtype(settings: Settings) -> torch.dtype:
    """Of the weights that are not quantized, and of what is computed."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device(settings).type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bf16" else torch.float32
