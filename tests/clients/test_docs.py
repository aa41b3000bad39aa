"""The examples of docs/clients.md run as they stand."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import SCRATCH, serve

from .conftest import run_python

DOCS = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [text for kind, text in BLOCKS if kind == "bash"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with serve(log, "--models", SCRATCH, "--threads", "1") as (client, _):
        yield str(client.base_url).rstrip("/")


def at(text: str, url: str) -> str:
    assert "http://127.0.0.1:8000" in text
    return text.replace("http://127.0.0.1:8000", url)


def test_there_are_examples_of_each() -> None:
    assert len(PROGRAMS) == len(COMMANDS) == 4


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.split()[1])
def test_a_program(url: str, program: str) -> None:
    environment = "tools" if "import instructor" in program else "apis"
    assert "'cold'" in run_python(at(program, url), environment=environment)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: text.split()[1][21:])
def test_a_command(url: str, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{at(command, url).strip()} --silent --show-error"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'cold'" in json.dumps(json.loads(done.stdout))
