"""What a run has left may be damaged, or something else: one line says so, nothing is used."""

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.errors import PenwrightError
from tests.training.loop.worker import Tokens, settings
from training.loop import best, state_file
from training.loop import state as saved_state
from training.loop.run import Run

Cli = Callable[..., tuple[int, str]]
AGAIN = "; start again without --resume"


class Worsening(Tokens):
    """Its best weights are the first ones, which are no part of the state of later steps."""

    def __init__(self) -> None:
        super().__init__()
        self.worse = 0.0

    def evaluate(self) -> dict[str, float]:
        self.worse += 1
        return {"val_loss": self.worse}


def train(run: Path, *, steps: int = 6, resume: bool = True) -> None:
    Run(Worsening(), settings(steps=steps, schedule="constant"), run).train(resume=resume)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train(tmp_path / "run", steps=3, resume=False)
    return tmp_path / "run"


def refused(run: Path) -> str:
    """What `--resume` says; nothing of the run is touched."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(PenwrightError) as error:
        train(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    said = str(error.value)
    assert said.startswith("--resume: ")
    assert len(said.splitlines()) == 1
    assert len(said) < 400
    return said


FILES = pytest.mark.parametrize("path_of", [saved_state.last_state, best.saved_path])


@FILES
def test_one_bit_of_any_tensor(path_of: Callable[[Path], Path], run: Path) -> None:
    path = path_of(run)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]
    tensors = [(name, content) for name, content in members if "/data/" in name]
    assert len(tensors) > 3
    for name, content in tensors:
        damaged = bytearray(whole)
        damaged[whole.index(content) + len(content) // 2] ^= 1
        path.write_bytes(damaged)
        with zipfile.ZipFile(path) as archive:
            name = archive.testzip() or name  # equal tensors: the first one was found
        said = f"{path} cannot be read: it is damaged (the checksum of {name} is another){AGAIN}"
        assert said in refused(run)
    path.write_bytes(whole)
    train(run)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("mapped", [False, True])
def test_any_damage_is_found_or_does_none(mapped: bool, tmp_path: Path) -> None:
    """Single bytes anywhere, those of the file's directory among them."""
    path, rng = tmp_path / "last.pt", random.Random(1)
    content = {"weights": {"a": torch.arange(9.0), "b": torch.ones(5)}, "step": 7, "text": "x" * 9}
    saved_state.save(content, path)
    whole, found = path.read_bytes(), 0
    for _ in range(600):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read = state_file.read(path, mapped=mapped)
        except PenwrightError as error:
            found, said = found + 1, str(error)
        else:
            said, same = "", equal(read, content)
            assert same
        assert len(said.splitlines()) <= 1
    assert found > 100


@FILES
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read: it is damaged (it is empty)"),
        (b"some text", "is no saved state (it is no file of PyTorch's)"),
        (b"text that is longer than any header\n" * 100, "is no saved state (it is no file of"),
        (bytes(range(256)) * 9, "is no saved state (it is no file of PyTorch's)"),
        (pickle.dumps({"step": 1}), "is no saved state (it is no file of PyTorch's)"),
        (b"PK\x03\x04" + bytes(range(256)), "cannot be read: it is damaged (its end is missing)"),
    ],
)
def test_files_of_something_else(
    content: bytes, said: str, path_of: Callable[[Path], Path], run: Path
) -> None:
    path_of(run).write_bytes(content)
    assert f"{path_of(run)} {said}" in refused(run)


@FILES
@pytest.mark.parametrize("kept", [10, 0.5, -10])
def test_files_that_were_cut_short(kept: float, path_of: Callable[[Path], Path], run: Path) -> None:
    whole = path_of(run).read_bytes()
    length = int(len(whole) * kept) if isinstance(kept, float) else kept
    path_of(run).write_bytes(whole[:length])
    assert "cannot be read: it is damaged (its end is missing)" in refused(run)


class Odd:
    """What no state holds."""


@FILES
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "is no saved state (it holds a list)"),
        (torch.ones(2), "is no saved state (it holds a Tensor)"),
        (Odd(), "is no saved state (it holds other things than tensors, numbers and texts)"),
    ],
)
def test_files_of_torch_that_hold_something_else(
    value: object, said: str, path_of: Callable[[Path], Path], run: Path
) -> None:
    torch.save(value, path_of(run))
    assert f"{path_of(run)} {said}{AGAIN}" in refused(run)


@FILES
def test_a_directory_in_the_place_of_a_file(path_of: Callable[[Path], Path], run: Path) -> None:
    path_of(run).unlink()
    path_of(run).mkdir()
    assert "cannot be read: Is a directory" in refused(run)


def test_a_zip_file_of_others(run: Path) -> None:
    with zipfile.ZipFile(saved_state.last_state(run), "w") as archive:
        archive.writestr("notes.txt", "mine")
    assert "last.pt is no saved state (" in refused(run)


@pytest.mark.parametrize("name", ["identity", "progress", "random", "optimizer", "trained"])
def test_a_state_that_lacks_something(name: str, run: Path) -> None:
    path = saved_state.last_state(run)
    state = torch.load(path)
    kept = state.pop(name)
    torch.save(state, path)
    assert f"last.pt is no saved state (it has no {name})" in refused(run)
    torch.save({**state, name: 3}, path)
    assert f"last.pt is no saved state (its {name} is a int)" in refused(run)
    if isinstance(kept, dict) and name != "trained":
        torch.save({**state, name: {"a": 1}}, path)
        assert "last.pt is no saved state (its " in refused(run)


def test_a_state_of_a_later_version(run: Path) -> None:
    path = saved_state.last_state(run)
    torch.save({**torch.load(path), "format": 9}, path)
    assert "last.pt is of format 9; this Penwright goes on from 2" in refused(run)


def test_weights_of_another_network(run: Path) -> None:
    path = saved_state.last_state(run)
    state = torch.load(path)
    state["trained"].popitem()
    torch.save(state, path)
    assert "--resume: the saved weights are of another network" in refused(run)


def test_the_best_weights_are_weights(run: Path) -> None:
    path = best.saved_path(run)
    torch.save({**torch.load(path), "trained": [1]}, path)
    assert "best.pt is no saved state (it has no weights)" in refused(run)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not valid JSON"),
        ("17", "line 2 has no step"),
        ('{"loss": 1.0}', "line 2 has no step"),
        ('{"step": "2"}', "line 2 has no step"),
    ],
)
def test_a_damaged_log(line: str, said: str, run: Path) -> None:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = line
    file.write_text("\n".join(lines) + "\n")
    message = refused(run)
    assert said in message
    assert message.endswith("delete the file to go on without the records of before")
    file.unlink()
    train(run)


def test_the_result_of_a_fold(base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli) -> None:
    short = ("--steps", 2, "--warmup", 0, "--batch-size", 4, "--folds", 2)
    words = ("classify", "--base", base_path, "--data", spam_file, *short)
    out = tmp_path / "out"
    assert cli(*words, "--out", out)[0] == 0
    metrics = json.loads((out / "card.json").read_text())["metrics"]
    file = tmp_path / "out.run" / "fold-1" / "result.json"
    whole = file.read_text()
    result = json.loads(whole)
    for content, said in (
        ("", "not valid JSON"),
        (whole[:-10], "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "has no baseline"),
        (json.dumps({**result, "identity": 1}), "identity is 1"),
        (json.dumps({**result, "truth": None}), "truth is None"),
        (json.dumps({**result, "decided": ["a"]}), "decided[0] is"),
        (json.dumps({**result, "f1": []}), "f1 is []"),
        (json.dumps({**result, "truth": result["truth"][1:]}), "not of the same rows"),
    ):
        file.write_text(content)
        code, err = cli(*words, "--out", out, "--resume")
        assert (code, f"--resume: {file}: {said}" in err or said in err) == (1, True), err
        assert err.strip().endswith("delete it, and --resume measures this fold again")
        assert len(err.strip().splitlines()) == 1
    file.unlink()
    assert cli(*words, "--out", out, "--resume")[0] == 0
    assert json.loads(file.read_text()) == result
    assert json.loads((out / "card.json").read_text())["metrics"] == metrics
