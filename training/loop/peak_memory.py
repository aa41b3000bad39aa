"""The most memory that this process, or its GPU, has held."""

import re
import sys
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak anew, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again at what is resident
    except OSError:  # elsewhere than on Linux, the peak is that since the start
        return


def peak(device: torch.device) -> int:
    """Bytes: resident of this process on a CPU, allocated by torch on a GPU."""
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
