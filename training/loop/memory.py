"""The process's memory: kept, measured, and one line where there is not enough of it."""

import contextlib
import ctypes
import errno
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from model.errors import PenwrightError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of handing them back to the kernel.

    Every step frees and takes the same tensors again; each return trip costs page faults, a tenth
    to a fifth of a step on a CPU. Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def peak(device: torch.device) -> int:
    """The most bytes so far: resident of this process on a CPU, allocated by torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # which Windows lacks

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


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
