"""Out of memory is one line that names what helps, and the saved state is still good."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.loop import state as saved_state
from training.loop.memory import OutOfMemory, memory_errors
from training.loop.task import Batch
from training.objectives.next_tokens import Pretraining

Cli = Callable[..., tuple[int, str]]


def allocate() -> None:
    """A real refusal of PyTorch's allocator."""
    torch.empty(2**58, dtype=torch.uint8)


def raise_(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


FAILURES: dict[str, Callable[[], object]] = {
    "torch on a CPU": allocate,
    "torch on a GPU": raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
    "Python": lambda: bytearray(2**62),
    "another PyTorch": raise_(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    ),
    "a mapped file": raise_(OSError(errno.ENOMEM, "Cannot allocate memory")),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_kind_is_one_error(name: str) -> None:
    args = {"batch_size": 8, "checkpoint_activations": False, "resume": False}
    with (
        pytest.raises(
            OutOfMemory,
            match=r"^out of memory \(.+\): try a lower --batch-size .*, "
            r"--checkpoint-activations; what the run saved before is good$",
        ),
        memory_errors(args),
    ):
        FAILURES[name]()


def test_what_is_on_is_not_named() -> None:
    args = {"batch_size": 8, "checkpoint_activations": True, "cache_mb": 0, "context": None}
    said = r"try a lower --batch-size .*, a lower --cache-mb$"
    with pytest.raises(OutOfMemory, match=said), memory_errors(args):
        allocate()
    with pytest.raises(OutOfMemory, match=r"\)$"), memory_errors({}):
        allocate()


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full")):
        with pytest.raises(type(error)), memory_errors({}):
            raise error


def test_the_state_of_the_last_save_is_good(
    text_file: Path,
    tokenizer_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = ("--preset", "tiny", "--context", 32, "--batch-size", 4, "--device", "cpu")
    data = ("--data", text_file, "--tokenizer", tokenizer_file, "--out", tmp_path / "out")
    words = ("pretrain", *data, *shape, "--steps", 4, "--save-every", 2)
    whole, losses = Pretraining.loss, []

    def loss(self: Pretraining, batch: Batch) -> Tensor:
        losses.append(self.trained.training)
        if sum(losses) == 4:
            allocate()
        return whole(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "loss", loss)
        code, err = cli(*words)
    lines = [line for line in err.splitlines() if line.startswith("penwright-train")]
    assert code == 1
    assert "Traceback" not in err
    assert lines[-1].startswith("penwright-train pretrain: out of memory (")
    assert "a lower --batch-size" in lines[-1]
    assert saved_state.load(tmp_path / "out.run")["progress"]["step"] == 2
    assert cli(*words, "--resume")[0] == 0
