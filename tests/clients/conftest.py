"""The official Python clients of other APIs, in an environment of their own: `make test-clients`.

A test hands a program to that environment's Python. It finds the service's address in `url`, and
what it prints is JSON.
"""

import json
import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import Live, checkpoints, guarded, live

__all__ = ["checkpoints", "guarded", "live"]

HERE = Path(__file__).parent
PYTHON = HERE.parent.parent / "build" / "clients" / "bin" / "python"
BEFORE = "import json, sys\nurl = sys.argv[1]\n"

Run = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("clients")


def run_python(program: str, *arguments: str) -> str:
    """What a program prints that may use the clients."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not there; `make test-clients` makes it")
    # Settings of the clients would come from there, and a proxy.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = [str(PYTHON), "-I", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run(live: Live) -> Run:
    def run(program: str, at: Live = live) -> Any:
        return json.loads(run_python(BEFORE + textwrap.dedent(program), at.url))

    return run
