"""How many CPU threads to use: a container's CPU quota, not the cores of its host."""

import math
import os
from pathlib import Path


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
