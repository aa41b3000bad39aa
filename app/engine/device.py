"""On what the models compute, and in which precision: what `auto` in the settings comes to.

CPU threads are as many as a container's CPU quota, not the cores of its host.
"""

import math
import os
from pathlib import Path

import torch

from app.settings import Settings
from model.cpu import library
from model.errors import UsageError


def choose_device(settings: Settings) -> torch.device:
    """Where the models run.

    Raises:
        UsageError: a GPU is asked for and there is none that torch can use.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UsageError("--device is 'cuda', but torch finds no usable GPU; give cpu or auto")
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


def choose_weight_bits(settings: Settings) -> int | None:
    """How many bits the weights are to have, 8 or 4; None where they stay floats."""
    if settings.quantize != "auto":
        return {"none": None, "int8": 8, "int4": 4}[settings.quantize]
    on_cpu = choose_device(settings).type == "cpu" and settings.dtype == "auto"
    return 8 if on_cpu and library.load() is not None else None


def choose_dtype(settings: Settings) -> torch.dtype:
    """Of the weights that are not quantized, and of what is computed."""
    if settings.dtype == "auto":
        return torch.bfloat16 if choose_device(settings).type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bf16" else torch.float32


def default_threads(root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU threads to use: the container's CPU quota, rounded up, else the cores one may run on.

    A container sees all of the host's cores; as many threads on a smaller quota would be stopped
    for most of every period.

    Args:
        root: where the control groups are mounted.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """CPUs that the control group allows (version 2, else version 1); None if it sets no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        # Version 2 writes "max" and version 1 writes -1 for no limit.
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None
