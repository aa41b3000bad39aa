"""Commands of `penwright-train`, each in a process of its own; `test_dry_run_memory.py` starts it.

    python -m tests.training.loop.peaks COMMANDS.json

The file lists command lines. Of each, a line on stdout is what it printed and the most memory that
its process had. The processes are forked from this one, which has imported all that they need: that
takes longer than what they do.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import torch

import training.tasks  # noqa: F401  (before the processes are forked)
from training.cli import main
from training.loop.memory import peak


def measured(words: list[str]) -> dict[str, object]:
    """The exit code of a command, what it printed, and in bytes the peak before and after it."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        printed, imported = io.StringIO(), peak(torch.device("cpu"))
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(words)
        result = {
            "code": code,
            "printed": printed.getvalue(),
            "imported": imported,
            "peak": peak(torch.device("cpu")),
        }
        with os.fdopen(write, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        result = json.load(pipe)
    os.waitpid(child, 0)
    return result


if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(json.dumps(measured(command)) + "\n")
