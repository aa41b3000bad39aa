"""Processes for work that could do harm in this one: where they find modules, and their limits."""

import contextlib
import os
from pathlib import Path

try:
    import resource
except ImportError:  # Windows, where only the time on the wall is bounded
    resource = None  # type: ignore[assignment]


def python_path() -> str:
    """`PYTHONPATH` with which `model` is found wherever this process was started, and the rest
    where it found it."""
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, path))


def limit_memory(size: int) -> None:
    """Bound this process's address space, in bytes, as far as the system can; a core dump it shall
    never write."""
    if resource is None:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: int) -> None:
    """Have this process killed when it has used so many seconds of CPU time, all told."""
    if resource is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))


def open_no_more_files() -> None:
    """Leave this process the files that it has."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
