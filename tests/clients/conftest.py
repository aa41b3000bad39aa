"""Clients that others wrote, in environments of their own: `make test-clients`.

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
ENVIRONMENTS = HERE.parent.parent / "build" / "clients"
BEFORE = "import json, sys\nurl = sys.argv[1]\n"

Run = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("clients")


def run_python(program: str, *arguments: str, environment: str = "apis") -> str:
    """What a program prints that may use the clients of an environment."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there; `make test-clients` makes it")
    # Settings of the clients would come from there, and a proxy.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = [str(python), "-I", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run(live: Live, request: pytest.FixtureRequest) -> Run:
    """Runs a program in the environment that its module's ENVIRONMENT names."""
    environment = getattr(request.module, "ENVIRONMENT", "apis")

    def run(program: str, at: Live = live) -> Any:
        shown = run_python(BEFORE + textwrap.dedent(program), at.url, environment=environment)
        return json.loads(shown)

    return run
