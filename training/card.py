"""What every checkpoint's card says of how it was made."""

import argparse
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from training.loop import Progress
from training.settings import LoopSettings


def run_fields(
    args: argparse.Namespace, settings: LoopSettings, progress: Progress
) -> dict[str, Any]:
    """Command, settings, length and licences of a run."""
    return {
        "command": portable_command(sys.argv[1:]),
        "settings": asdict(settings),
        "seed": settings.seed,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "device": settings.torch_device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licences": list(args.licence),
    }


def portable_command(argv: list[str]) -> str:
    """The command as another user would type it: files of the directory that PENWRIGHT_DATA names
    are written by that name, other absolute paths from the working directory. `--resume` is left
    out, since a resumed run equals one that was never interrupted."""
    data = os.environ.get("PENWRIGHT_DATA")
    words = ["penwright-train"]
    for argument in argv:
        path = Path(argument)
        if argument == "--resume":
            continue
        if data and path.is_absolute() and path.is_relative_to(Path(data).resolve()):
            words.append(f"$PENWRIGHT_DATA/{path.relative_to(Path(data).resolve())}")
        elif path.is_absolute() and path.is_relative_to(Path.cwd()):
            words.append(shlex.quote(str(path.relative_to(Path.cwd()))))
        else:
            words.append(shlex.quote(argument))
    return " ".join(words)
