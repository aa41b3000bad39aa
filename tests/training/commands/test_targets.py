"""What can stop a result from being written is found before there is one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.checkpoint import load_base
from training.loop.run import Run

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 2, "--warmup", 0, "--batch-size", 4, "--device", "cpu")


@pytest.fixture
def commands(
    text_file: Path,
    tokenizer_file: Path,
    base_path: Path,
    spam_file: Path,
    instruction_file: Path,
    preference_file: Path,
) -> dict[str, tuple[object, ...]]:
    """Each command that writes something, without `--out`."""
    based = ("--base", base_path, *SHORT)
    shape = ("--tokenizer", tokenizer_file, "--preset", "tiny", "--context", 32, *SHORT)
    return {
        "tokenizer": ("--data", text_file, "--vocab-size", 300),
        "pretrain": ("--data", text_file, *shape),
        "classify": ("--data", spam_file, *based),
        "instruct": ("--data", instruction_file, *based),
        "dpo": ("--data", preference_file, *based),
        "import": (base_path,),
        "export": (base_path, "--format", "hf"),
    }


TRAININGS = ("pretrain", "classify", "instruct", "dpo")


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Run) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Run, "step", step)


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize("command", ["tokenizer", *TRAININGS, "import", "export"])
def test_a_place_where_nothing_can_be_written(
    command: str, commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "file").write_text("")
    for out, reason in (
        (tmp_path / "file" / "deep" / "out", "Not a directory"),
        (Path("/proc/out"), "No such file or directory"),  # where not even root may write
        (tmp_path / ("x" * 250), "File name too long"),
    ):
        code, err = cli(command, *commands[command], "--out", out)
        assert (code, f"--out {out} cannot be written: {reason}" in err) == (2, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize("command", TRAININGS)
def test_a_run_that_cannot_be_written(
    command: str, commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "file").write_text("")
    for run, reason in (
        (tmp_path / "file" / "run", "cannot be written: Not a directory"),
        (tmp_path / "file", "is a file; name a directory"),
    ):
        words = ("--out", tmp_path / "out", "--run", run)
        code, err = cli(command, *commands[command], *words)
        assert (code, f"--run {run} {reason}" in err) == (2, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["pretrain", "classify", "export"])
def test_a_way_through_a_directory_that_is_not_there(
    command: str, commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "none" / ".." / "deep" / "out"
    code, err = cli(command, *commands[command], "--out", out)
    assert code == 0, err
    assert (tmp_path / "deep" / "out" / "config.json").exists() or command == "classify"
    assert (tmp_path / "deep" / "out" / "card.json").exists() or command == "export"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A new file system, as a container gets it for `--out`."""
    path = tmp_path / "volume"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    (path / "lost+found").mkdir()
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_volume_is_published_to_twice(
    commands: dict[str, tuple[object, ...]], volume: Path, cli: Cli
) -> None:
    ids = []
    for seed in (1, 2):
        code, err = cli("pretrain", *commands["pretrain"], "--seed", seed, "--out", volume)
        assert code == 0, err
        ids.append(load_base(volume).id)
    assert ids[0] != ids[1]


def test_a_publication_that_was_cut_short_is_made_again(
    commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    """As a kill leaves a volume; any other directory with files is refused as ever."""
    out = tmp_path / "out"
    (out / ".unfinished-abc").mkdir(parents=True)
    (out / "config.json").write_text("{}")
    code, err = cli("pretrain", *commands["pretrain"], "--out", out)
    assert code == 0, err
    load_base(out)
    (out / "card.json").unlink()
    code, err = cli("pretrain", *commands["pretrain"], "--out", out)
    assert (code, "holds files that are no checkpoint" in err) == (2, True), err
