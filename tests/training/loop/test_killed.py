"""A run that is killed, at any moment, goes on from what it saved to the same end."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.loop.test_run import assert_same_state, records
from tests.training.loop.worker import Tokens, settings
from training.loop import state as saved_state
from training.loop.run import Run

REPOSITORY = Path(__file__).parents[3]

CHANGES = {"steps": 30, "save_every": 1, "eval_every": 15, "dropout": 0.1}

CHILD = """
import io, os, signal, sys
from pathlib import Path
import torch
from tests.training.loop.worker import Tokens, settings
from training.loop.run import Run

torch.set_num_threads(1)
whole_save, saves = torch.save, 0

def torn_save(state, file):
    global saves
    saves += "progress" in state
    if saves < int(sys.argv[2]):
        return whole_save(state, file)
    buffer = io.BytesIO()
    whole_save(state, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = torn_save
Run(Tokens(dropout=0.1), settings(**eval(sys.argv[3])), Path(sys.argv[1])).train()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody killed."""
    directory = tmp_path_factory.mktemp("whole")
    Run(Tokens(dropout=0.1), settings(**CHANGES), directory).train()
    return directory


def child(directory: Path, torn: int) -> "subprocess.Popen[bytes]":
    """The run in a process of its own, which kills itself half-way through a save."""
    command = [sys.executable, "-c", CHILD, str(directory), str(torn), str(CHANGES)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=quiet, stderr=quiet)


def assert_goes_on(directory: Path, whole: Path) -> None:
    Run(Tokens(dropout=0.1), settings(**CHANGES), directory).train(resume=True)
    assert_same_state(directory, whole)
    assert records(directory) == records(whole)


def test_killed_while_the_state_is_written(whole: Path, tmp_path: Path) -> None:
    assert child(tmp_path, torn=4).wait(timeout=100) == -9
    torn = tmp_path / "state" / "last.tmp"
    with pytest.raises((RuntimeError, OSError)):
        torch.load(torn)
    assert saved_state.load(tmp_path)["progress"]["step"] == 3
    assert_goes_on(tmp_path, whole)


def test_killed_at_any_moment(whole: Path, tmp_path: Path) -> None:
    process = child(tmp_path, torn=1000)
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "state" / "last.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
    finally:
        process.kill()
        process.wait()
    assert_goes_on(tmp_path, whole)
