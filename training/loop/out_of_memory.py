"""Memory that is not there: one line that says what to lower, in place of a traceback."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from model.errors import PenwrightError

_ALLOCATORS = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What PyTorch's allocator on the CPU says in a `RuntimeError`, in this version or that, and what
cuBLAS does."""

_LOWER = {
    "batch_size": "a lower --batch-size (with --accumulate for a step of the same size)",
    "context": "a shorter --context",
    "checkpoint_activations": "--checkpoint-activations",
    "cache_mb": "a lower --cache-mb",
}


class OutOfMemory(PenwrightError):
    """There is not as much memory as was asked for; what was saved before still is."""


@contextlib.contextmanager
def memory_errors(flags: Mapping[str, Any]) -> Iterator[None]:
    """Turn the many errors for it into one, which names the flags of the command that help.

    Args:
        flags: all that the command has, with their values.

    Raises:
        OutOfMemory: an allocation in the block failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        helps = [text for name, text in _LOWER.items() if flags.get(name) is not None]
        if flags.get("checkpoint_activations"):
            helps.remove(_LOWER["checkpoint_activations"])
        said = " ".join(str(error).split("\n")[0].split())[:200]
        message = f"out of memory ({said or type(error).__name__})"
        if helps:
            message += f": try {', '.join(helps)}"
        if "resume" in flags:
            message += "; what the run saved before is good"
        raise OutOfMemory(message) from error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return any(words in str(error) for words in _ALLOCATORS)
