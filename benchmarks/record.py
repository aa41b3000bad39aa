"""What belongs beside every number: machine, versions, date and command, kept in a file."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpt2 import default_work

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = (
    *("torch", "transformers", "accelerate", "peft", "ctranslate2", "llama-cpp-python", "numpy"),
    *("uvicorn", "llms-from-scratch"),
)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=5, help="measured rounds, after a warm-up")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--work", type=Path, default=default_work(), help="where the weights lie")
    made.add_argument("--json", type=Path, help="write the results there")
    made.add_argument("--quick", action="store_true", help="does it run? the numbers say little")
    return made


def machine() -> dict[str, Any]:
    """The processor, its cores and memory."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    field = re.compile(r"^(model name|cpu family|model|flags)\s*:\s*(.*)$", re.M)
    values = {m[1]: m[2] for m in field.finditer(text)}  # of the last processor; all are alike
    flags = set(values.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": values.get("model name", platform.processor() or platform.machine()),
        "family": f"{values.get('cpu family', '?')}/{values.get('model', '?')}",
        "features": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"}),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of Python, of the packages that are installed, and of this source."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {**found, "penwright": commit or "unknown"}


def command(module: str) -> str:
    """How this run was started; paths of this machine are left out."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python", "-m", module, *words])


def record(module: str, arguments: argparse.Namespace, **values: Any) -> dict[str, Any]:
    """Everything about one run, as it is kept."""
    return {
        "benchmark": module.rpartition(".")[2],
        "command": command(module),
        "date": time.strftime("%Y-%m-%d"),
        "quick": bool(arguments.quick),
        "threads": arguments.threads,
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine(),
        "versions": versions(),
        **values,
    }


def write(values: dict[str, Any], path: Path | None) -> None:
    """Keep a record at `path`, if one is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
