"""Compiles the C kernels when the package is installed, where there is a compiler.

The extension is optional: without it `model.cpu.quantize` computes the same in torch, slower.
Compile by hand: `python hatch_build.py`. With `--checked` it writes CHECKED, in which every access
and every operation is checked: for `make check-kernels`.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DIRECTORY = Path("model/cpu/kernels")
LIBRARY = DIRECTORY / "libkernels.so"
# Without -ffp-contract=off, paths with a fused multiply-add would round differently.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-Wall", "-Wno-psabi", "-fPIC", "-shared"]
CHECKED = Path("build/libkernels-checked.so")
CHECKS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]


def compile_kernels(root: Path, name: Path = LIBRARY, flags: Sequence[str] = ()) -> str | None:
    """Write the library `name` below `root`. Returns why it could not, or None."""
    library = root / name
    library.parent.mkdir(parents=True, exist_ok=True)
    library.unlink(missing_ok=True)  # never leave one that an older source gave
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return "there is no C compiler"
    # A file of its own first: a process that has the old library loaded keeps it.
    new = library.with_suffix(".new")
    for threads in (["-fopenmp"], []):  # some compilers come without OpenMP
        sources = [str(source) for source in sorted((root / DIRECTORY).glob("*.c"))]
        command = [*compiler.split(), *FLAGS, *flags, *threads, *sources, "-o", str(new), "-lm"]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            return f"{compiler}: {error.strerror}"
        if result.returncode == 0:
            new.replace(library)
            return None
    new.unlink(missing_ok=True)
    return f"{compiler} failed: {result.stderr.strip()[-500:]}"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = compile_kernels(Path(self.root))
        if problem:
            self.app.display_warning(f"built without the C kernels: {problem}")
            return
        # A plain library for ctypes: of a platform, but of no Python version.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(str(LIBRARY))


if __name__ == "__main__":
    checked = sys.argv[1:] == ["--checked"]
    sys.exit(compile_kernels(Path(__file__).parent, *([CHECKED, CHECKS] if checked else [])))
