"""A run whose output cannot be written trains on, publishes, and says that it is done."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.checkpoint import load_base
from training.report.output import Output

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def words(text_file: Path, tokenizer_file: Path, tmp_path: Path) -> list[str]:
    """A short pretraining that shows samples, of characters that no small encoding has."""
    flags = ("--preset", "tiny", "--context", 32, "--steps", 3, "--batch-size", 4, "--device")
    more = ("cpu", "--eval-every", 1, "--sample-every", 1, "--val-fraction", 0.2)
    data = ("--data", text_file, "--tokenizer", tokenizer_file, "--out", tmp_path / "out")
    return [str(word) for word in ("pretrain", *data, *flags, *more)]


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "training.cli", *words]


def assert_published(out: Path) -> None:
    assert load_base(out).card["steps"] == 3


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "| head -c 0"])
def test_closed_from_the_start(closed: str, words: list[str], tmp_path: Path) -> None:
    shell = ["bash", "-o", "pipefail", "-c", f'"$@" {closed}', "bash", *command(words)]
    done = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert_published(tmp_path / "out")
    if closed == ">&-":
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
    if closed == "2>&-":
        assert "out: base " in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_encoding_that_lacks_characters(encoding: str, words: list[str], tmp_path: Path) -> None:
    env = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command(words), env=env, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert "step 3: val_loss" in done.stdout.decode(encoding)
    assert_published(tmp_path / "out")


def test_a_terminal_that_goes_away(words: list[str], tmp_path: Path) -> None:
    """As under nohup: no signal comes, but every write is an error."""
    here, there = pty.openpty()
    process = subprocess.Popen(command(words), env=ENVIRONMENT, stdout=there, stderr=there)
    os.close(there)
    os.read(here, 1)  # it has begun to show something
    os.close(here)
    assert process.wait(timeout=200) == 0
    assert_published(tmp_path / "out")


def test_a_full_disk_below_stdout(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(words), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, timeout=200
        )
    assert done.returncode == 0, done.stderr
    assert b"penwright-train pretrain: stdout: cannot be written: No space left" in done.stderr
    assert_published(tmp_path / "out")


def test_what_only_shows_has_failed_then(base_path: Path, text_file: Path) -> None:
    words = command(["evaluate", str(base_path), "--data", str(text_file)])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, timeout=200
        )
    assert done.returncode == 1
    assert b"stdout: cannot be written: No space left on device" in done.stderr


def test_the_end_of_the_terminal_stops_after_the_step(words: list[str], tmp_path: Path) -> None:
    words[words.index("--steps") + 1] = "100000"
    process = subprocess.Popen(
        command(words),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where these tests run under `nohup`, what they start would ignore the signal as well.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        while "step 1:" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "the same command with --resume goes on" in err
    assert (tmp_path / "out.run" / "state" / "last.pt").exists()


def test_streams_that_are_not_there() -> None:
    output = Output(None)
    assert output.write("text") == 4
    output.flush()
    assert not output.isatty()
    assert output.error is None


def test_a_stream_that_was_closed(tmp_path: Path) -> None:
    file = (tmp_path / "file").open("w")
    output = Output(file)
    output.write("one")
    file.close()
    output.write("two")
    assert isinstance(output.error, ValueError)
    assert (tmp_path / "file").read_text() == "one"
