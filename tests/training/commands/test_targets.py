"""What can stop a result from being written is found before there is one."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import golden, load_base
from model.checkpoint.files import FILES
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
        (tmp_path / ("x" * 300), "File name too long"),
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


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize("command", TRAININGS)
def test_a_run_within_its_checkpoint(
    command: str, commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for run in ("out", "out/run", "link/run"):
        words = ("--out", tmp_path / "out", "--run", tmp_path / run)
        code, err = cli(command, *commands[command], *words)
        said = f"--run {tmp_path / run} is or lies in --out {tmp_path / 'out'}"
        assert (code, said in err) == (2, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_checkpoint_within_its_run(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    """A run's directory is never replaced, and may hold what it published."""
    command = ("classify", "--base", base_path, "--data", spam_file, "--steps", 2, "--warmup", 0)
    words = ("--out", tmp_path / "run" / "model", "--run", tmp_path / "run")
    for more in ((), ("--resume",)):
        code, err = cli(*command, *words, *more)
        assert code == 0, err
    assert (tmp_path / "run" / "model" / "card.json").is_file()
    assert (tmp_path / "run" / "state" / "last.pt").is_file()


@pytest.mark.usefixtures("no_steps")
def test_tokens_within_a_checkpoint(
    commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    words = ("--out", tmp_path / "out", "--token-cache", tmp_path / "out" / "tokens")
    code, err = cli("pretrain", *commands["pretrain"], *words)
    assert (code, "out/tokens is or lies in --out" in err) == (2, True), err


@pytest.fixture
def published(base_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_path, tmp_path / "published"))


def content(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


FOREIGN = ("notes.txt", "run/state/last.pt", ".gitkeep", ".DS_Store", "lost+found/", "parts.json/")


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", [*TRAININGS, "import"])
def test_what_lies_beside_a_checkpoint_is_not_lost(
    command: str,
    name: str,
    commands: dict[str, tuple[object, ...]],
    published: Path,
    cli: Cli,
) -> None:
    path = published / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = content(published)
    code, err = cli(command, *commands[command], "--out", published)
    said = f"--out {published} holds {Path(name).parts[0]}, which is no part of the checkpoint"
    assert (code, said in err) == (2, True), err
    assert len(err.strip().splitlines()) == 1
    assert content(published) == before


@pytest.mark.usefixtures("no_steps")
def test_data_within_the_checkpoint_that_would_be_replaced(
    commands: dict[str, tuple[object, ...]],
    published: Path,
    spam_file: Path,
    text_file: Path,
    cli: Cli,
) -> None:
    for command, flag, file in (
        ("classify", "--extra", spam_file),
        ("classify", "--data", spam_file),
        ("pretrain", "--eval-text", text_file),
    ):
        inside = published / file.name
        shutil.copy(file, inside)
        code, err = cli(command, *commands[command], flag, inside, "--out", published)
        assert (code, f"holds {file.name}" in err) == (2, True), err
        assert inside.read_bytes() == file.read_bytes()
        inside.unlink()


def test_a_damaged_card_hides_no_other_files(
    commands: dict[str, tuple[object, ...]], published: Path, cli: Cli
) -> None:
    for card in (b"", b"{", b"[]", b"{}", b'{"files": 1}', bytes(9)):
        (published / "card.json").write_bytes(card)
        (published / "notes.txt").write_text("mine")
        code, err = cli("import", *commands["import"], "--out", published)
        assert (code, "holds notes.txt" in err) == (2, True), err
        (published / "notes.txt").unlink()
    code, err = cli("pretrain", *commands["pretrain"], "--out", published)
    assert code == 0, err
    load_base(published)
    (published / "card.json").write_text('{"title": "my card"}')
    (published / "config.json").unlink()
    code, err = cli("import", *commands["import"], "--out", published)
    assert (code, "holds files that are no checkpoint" in err) == (2, True), err


def test_what_comes_during_a_training_is_not_lost_either(
    commands: dict[str, tuple[object, ...]],
    published: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = golden.compute

    def late(*args: Any) -> Any:  # after the first look, while the checkpoint is written
        (published / "notes.txt").write_text("mine")
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(golden, "compute", late)
        code, err = cli("pretrain", *commands["pretrain"], "--out", published)
    assert (code, "holds notes.txt" in err) == (2, True), err
    assert (published / "notes.txt").read_text() == "mine"
    load_base(published)
    (published / "notes.txt").rename(published.parent / "notes.txt")
    code, err = cli("pretrain", *commands["pretrain"], "--out", published, "--resume")
    assert code == 0, err


@pytest.mark.parametrize("command", TRAININGS)
def test_the_same_command_twice(
    command: str, commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    for _ in range(2):
        code, err = cli(command, *commands[command], "--out", tmp_path / "out")
        assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} <= FILES
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run"}


def test_a_model_set_is_no_checkpoint(
    commands: dict[str, tuple[object, ...]], published: Path, cli: Cli
) -> None:
    (published.parent / "models.json").write_text('{"format_version": 1, "generate": "published"}')
    code, err = cli("pretrain", *commands["pretrain"], "--out", published.parent)
    assert (code, "holds files that are no checkpoint" in err) == (2, True), err


def test_what_lies_beside_an_export_is_not_lost(
    commands: dict[str, tuple[object, ...]], tmp_path: Path, cli: Cli
) -> None:
    words = (*commands["export"], "--out", tmp_path / "out", "--force")
    for _ in range(2):
        code, err = cli("export", *words)
        assert code == 0, err
    (tmp_path / "out" / "README.md").write_text("mine")
    code, err = cli("export", *words)
    assert (code, "holds README.md, which is no part of an export" in err) == (2, True), err
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


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
    (out / ".unfinished-abc").mkdir()
    (out / "notes.txt").write_text("mine")
    for card in (out / "card.json", out / "none"):
        code, err = cli("pretrain", *commands["pretrain"], "--out", out)
        assert (code, "holds notes.txt" in err) == (2, True), err
        card.unlink(missing_ok=True)
    (out / "notes.txt").unlink()
    (out / ".unfinished-abc").rmdir()
    code, err = cli("pretrain", *commands["pretrain"], "--out", out)
    assert (code, "holds files that are no checkpoint" in err) == (2, True), err
