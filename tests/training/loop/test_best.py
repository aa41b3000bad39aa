"""The best weights and the saved state come from one history, wherever a run was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import PenwrightError, UsageError
from tests.training.loop.worker import Tokens, settings
from training.loop import best
from training.loop import state as saved_state
from training.loop.log import MetricsLog
from training.loop.run import Progress, Run

REPOSITORY = Path(__file__).parents[3]
STEPS = 9


class Wavy(Tokens):
    """Its loss is told by the weights and goes up and down."""

    def evaluate(self) -> dict[str, float]:
        total = sum(p.double().abs().sum().item() for p in self.trained.parameters())
        return {"val_loss": total * 1e4 % 1}


def train(directory: Path, *, resume: bool = False, steps: int = STEPS) -> tuple[float, Progress]:
    """The loss of the weights that would be published, and what the run says of itself."""
    task = Wavy()
    changes = {"steps": steps, "schedule": "constant", "eval_every": 1, "save_every": 3}
    progress = Run(task, settings(**changes), directory).train(resume=resume)
    return task.evaluate()["val_loss"], progress


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetricsLog, "plot", lambda self: None)


CHILDREN = """
import io, json, os, signal, sys
from pathlib import Path
import torch
from tests.training.loop import test_best
from training.loop.log import MetricsLog

torch.set_num_threads(1)
MetricsLog.plot = lambda self: None
calls, kill_at = 0, 0

def count():
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(function):
    def call(*args, **more):
        count()
        return function(*args, **more)
    return call

def torn_save(state, file):
    buffer = io.BytesIO()
    save(state, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    count()
    file.write(buffer.getvalue()[buffer.tell() // 2 :])

save, torch.save = torch.save, torn_save
os.replace, os.unlink = counted(os.replace), counted(os.unlink)

test_best.train(Path(sys.argv[1]) / "before", steps=4)
number, codes = 0, []
while not codes or codes[-1]:
    number += 1
    directory = Path(sys.argv[1]) / str(number)
    child = os.fork()
    if not child:
        test_best.train(directory, steps=4)  # of an earlier run, which is forgotten
        kill_at, calls = number, 0
        test_best.train(directory)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Directories of one run, killed at its first write, at its second, and so on."""
    directory = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(directory)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert set(codes[:-1]) == {-9}
    assert len(codes) > 15
    return [directory / str(number) for number in range(1, len(codes))]


@pytest.mark.parametrize("more", [0, 1, STEPS])
def test_what_is_published_is_what_the_card_says(
    killed: list[Path], tmp_path: Path, more: int
) -> None:
    """Killed at each write, resumed as long, or shorter: for no step, or for one."""
    whole = train(tmp_path / "whole")
    ends = set()
    for index, directory in enumerate(killed):
        copy = tmp_path / str(index)
        copy.mkdir()
        subprocess.run(["cp", "-r", f"{directory}/.", str(copy)], check=True)
        if not saved_state.last_state(copy).exists():
            with pytest.raises(UsageError, match="nothing to resume"):
                train(copy, resume=True)
            continue
        steps = min(STEPS, saved_state.load(copy)["progress"]["step"] + more)
        loss, progress = train(copy, resume=True, steps=steps)
        assert loss == progress.best_loss, directory
        assert progress.step == steps
        assert {p.name for p in (copy / "state").iterdir()} <= {"last.pt", "best.pt", "last.tmp"}, (
            directory
        )
        ends.add((loss, progress.best_step))
        if steps == STEPS:
            assert loss == whole[0]
            assert progress.best_step == whole[1].best_step
    assert len(ends) > 1 or more == STEPS


def test_the_best_weights_of_another_run_are_refused(tmp_path: Path) -> None:
    for name, steps in (("one", 3), ("two", 9)):
        train(tmp_path / name, steps=steps)
    one, two = (tmp_path / name for name in ("one", "two"))
    assert torch.load(best.saved_path(one))["loss"] != torch.load(best.saved_path(two))["loss"]
    best.saved_path(one).write_bytes(best.saved_path(two).read_bytes())
    with pytest.raises(UsageError, match=r"best\.pt is not of the run whose state is in last\.pt"):
        train(one, resume=True)


def test_a_state_that_was_put_back_has_its_own_weights_as_the_best(tmp_path: Path) -> None:
    """The state of step 5, where the loss was lowest, after the run went on and forgot it."""
    _, progress = train(tmp_path, steps=5)
    assert progress.best_step == 5
    before = saved_state.last_state(tmp_path).read_bytes()
    train(tmp_path, steps=60, resume=True)
    assert torch.load(best.saved_path(tmp_path))["step"] > 5
    saved_state.last_state(tmp_path).write_bytes(before)
    loss, progress = train(tmp_path, steps=6, resume=True)
    assert (loss, progress.best_step) == (progress.best_loss, 5)


def test_damaged_best_weights_are_named(tmp_path: Path) -> None:
    train(tmp_path)
    os.truncate(best.saved_path(tmp_path), 1000)
    with pytest.raises(PenwrightError, match=r"--resume: .*best\.pt cannot be read"):
        train(tmp_path, resume=True)


def test_a_run_that_ran_out_of_patience_says_the_same_again(tmp_path: Path) -> None:
    class Worsening(Tokens):
        losses = iter((3.0, 1.0, 2.0, 2.5))

        def evaluate(self) -> dict[str, float]:
            return {"val_loss": next(self.losses)}

    changes = {"steps": 50, "eval_every": 2, "patience": 2, "save_every": 40}
    first, again = Worsening(), Worsening()
    progress = Run(first, settings(**changes), tmp_path).train()
    assert (progress.step, progress.best_step) == (6, 2)
    same = Run(again, settings(**changes), tmp_path).train(resume=True)
    assert (same.step, same.best_loss) == (6, 1.0)
    for a, b in zip(first.trained.parameters(), again.trained.parameters(), strict=True):
        assert torch.equal(a, b)
