"""Event files, read with TensorBoard's own reader."""

import sys
from pathlib import Path

import pytest

from model.errors import UsageError
from tests.training.loop.worker import Tokens, settings
from training.loop.run import Run

CHANGES = {"tensorboard": True, "schedule": "constant"}


def test_events_are_those_of_the_metrics(tmp_path: Path) -> None:
    """Also where a crash lost steps that were logged: they are logged anew, and once."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    Run(Tokens(), settings(**CHANGES, save_every=2), tmp_path).train()
    state = tmp_path / "state" / "last.pt"
    Run(Tokens(), settings(**CHANGES, steps=6, save_every=6), tmp_path).log.close()
    before = state.read_bytes()
    Run(Tokens(), settings(**CHANGES, steps=6, save_every=2), tmp_path).train(resume=True)
    state.write_bytes(before)
    Run(Tokens(), settings(**CHANGES, steps=6, save_every=2), tmp_path).train(resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("val_loss")] == [0, 4, 6]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UsageError, match="--tensorboard needs the package tensorboard: run pip"):
        Run(Tokens(), settings(**CHANGES), tmp_path).train()
