"""The training loop: resuming, accumulating, evaluating, stopping."""

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.errors import DataError, PenwrightError, UsageError
from tests.training.loop.worker import Tokens
from training.loop.run import Batch, Run, Stopped
from training.loop.settings import LoopSettings


class Regression:
    """A line through points with dropout: small, and every source of randomness matters."""

    name = "regression"
    keep_best = False
    examples = 24
    lengths = None
    tokens_per_example = 3

    def __init__(self, stop_at: int = -1, dropout: float = 0.3, stuck: bool = False) -> None:
        self.trained: nn.Module = nn.Sequential(
            nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.trained.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.x = torch.randn(24, 3, generator=generator)
        self.y = self.x.sum(dim=1)
        self.stop_at = stop_at
        self.stuck = stuck
        self.batches = 0
        self.evaluations = 0

    def batch(self, examples: Sequence[int]) -> Batch:
        if self.batches == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.batches += 1
        chosen = list(examples)
        return Batch(self.x[chosen], self.y[chosen], torch.full((len(chosen),), 3), len(chosen))

    def loss(self, batch: Batch) -> Tensor:
        return ((self.trained(batch.inputs)[:, 0] - batch.targets) ** 2).sum()

    def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        assert not self.trained.training
        torch.rand(7)  # an evaluation that draws must not change the training
        worst = 1.0 if self.stuck else self.loss(self.batch_of_all()).item() / 24
        return {"val_loss": worst}

    def batch_of_all(self) -> Batch:
        return Batch(self.x, self.y, torch.full((24,), 3), 24)

    def samples(self) -> list[str]:
        return []


def settings(**changes: Any) -> LoopSettings:
    values: dict[str, Any] = {"steps": 6, "batch_size": 4, "warmup": 2, "lr": 0.01, "eval_every": 2}
    return LoopSettings(**{**values, "precision": "fp32", "device": "cpu", **changes})


def train(task: Regression, directory: Path, *, resume: bool = False, **changes: Any) -> Run:
    run = Run(task, settings(**changes), directory)
    run.train(resume=resume)
    return run


def records(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what a clock measured."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "tokens_per_second"}
        for line in lines
    ]


def assert_same_state(a: Path, b: Path, *aside: str) -> None:
    """All that a run saves, clocks and `aside` aside, is the same to the bit."""
    one, two = (torch.load(path / "state" / "last.pt") for path in (a, b))
    for state in (one, two):
        for name in ("seconds", *aside):
            state["progress"].pop(name)
    assert one["progress"] == two["progress"]
    assert torch.equal(one["random"][0]["cpu"], two["random"][0]["cpu"])
    for name, tensor in one["trained"].items():
        assert torch.equal(tensor, two["trained"][name]), name
    for mine, other in zip(one["optimizer"], two["optimizer"], strict=True):
        for index, moments in mine["state"].items():
            for name, value in moments.items():
                assert torch.equal(value, other["state"][index][name]), (index, name)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, optimizer: str, accumulate: int
) -> None:
    changes = {"optimizer": optimizer, "accumulate": accumulate}
    train(Regression(), tmp_path / "whole", **changes)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped at step 3 of 6"):
        train(Regression(stop_at=2 * accumulate), tmp_path / "parts", **changes)
    assert signal.getsignal(signal.SIGTERM) is before
    torch.rand(100)  # another process: nothing of the random state is left over
    train(Regression(), tmp_path / "parts", resume=True, **changes)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_work_after_the_saved_state_is_done_again(tmp_path: Path) -> None:
    """As after a crash: the last saved state is older than the last line of the metrics."""
    train(Regression(), tmp_path / "whole", save_every=2)
    with pytest.raises(Stopped):
        train(Regression(stop_at=3), tmp_path / "parts", save_every=2)
    state = (tmp_path / "parts" / "state" / "last.pt").read_bytes()
    train(Regression(), tmp_path / "parts", resume=True, save_every=2)
    (tmp_path / "parts" / "state" / "last.pt").write_bytes(state)
    train(Regression(), tmp_path / "parts", resume=True, save_every=2)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_evaluations_do_not_disturb_the_training(tmp_path: Path) -> None:
    often, rarely = Regression(), Regression()
    train(often, tmp_path / "often", eval_every=1)
    train(rarely, tmp_path / "rarely", eval_every=100)
    assert often.evaluations > rarely.evaluations
    for a, b in zip(often.trained.parameters(), rarely.trained.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    one, two = Regression(dropout=0.0), Regression(dropout=0.0)
    train(one, tmp_path / "one", batch_size=8)
    train(two, tmp_path / "two", batch_size=4, accumulate=2)
    for a, b in zip(one.trained.parameters(), two.trained.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=0)


def test_batches_count_by_their_items(tmp_path: Path) -> None:
    """The loss is a mean over items, so a batch with three times as many weighs three times."""

    class Uneven(Regression):
        def batch(self, examples: Sequence[int]) -> Batch:
            whole = super().batch(examples)
            kept = 3 if self.batches % 2 else 1
            return Batch(
                whole.inputs[:kept], whole.targets[:kept], whole.lengths[:kept], count=kept
            )

    uneven = Uneven(dropout=0.0)
    run = Run(uneven, settings(steps=1, accumulate=2, warmup=0), tmp_path)
    batches = [uneven.batch([run.order[4 * i + row] for row in range(4)]) for i in range(2)]
    expected = sum(uneven.loss(batch).item() for batch in batches) / 4
    run.train()
    assert records(tmp_path)[1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_accumulated_tokens_weigh_the_same_in_the_gradient(tmp_path: Path) -> None:
    """Rows with 1 to 11 targets, in one pass and in four: the same step."""
    one, four = Tokens(), Tokens()
    size = {"steps": 1, "warmup": 0, "clip": 0.0}
    for task, changes in ((one, {"batch_size": 4}), (four, {"batch_size": 1, "accumulate": 4})):
        run = Run(task, settings(**size, **changes), tmp_path)
        run.optimizer.optimizers = [torch.optim.SGD(run.optimizer.parameters, lr=1.0)]
        run.train()
    counts = {four.batch([i]).count for i in range(4)}
    assert len(counts) > 1
    for a, b in zip(one.trained.parameters(), four.trained.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_from_the_first_step(tmp_path: Path) -> None:
    """AdamW's step is the same for all sizes of gradient; plain descent shows the clipping."""
    task = Regression(dropout=0.0)
    run = Run(task, settings(steps=1, warmup=0, clip=1e-3, lr=1.0, weight_decay=0.0), tmp_path)
    run.optimizer.optimizers = [torch.optim.SGD(run.optimizer.parameters, lr=1.0)]
    before = [p.detach().clone() for p in task.trained.parameters()]
    run.train()
    moved = [
        (a.detach() - b).norm() for a, b in zip(task.trained.parameters(), before, strict=True)
    ]
    assert math.sqrt(sum(float(m) ** 2 for m in moved)) == pytest.approx(1e-3, rel=1e-2)
    assert records(tmp_path)[1]["grad_norm"] > 1e-3


def test_warm_up_as_long_as_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--warmup is 6"):
        train(Regression(), tmp_path, warmup=6)


def test_patience_ends_the_run(tmp_path: Path) -> None:
    run = train(Regression(stuck=True), tmp_path, steps=100, patience=2, eval_every=3)
    assert run.progress.step == 6


def test_the_best_evaluation_is_kept_when_the_task_wants_it(tmp_path: Path) -> None:
    class Worsening(Regression):
        keep_best = True

        def evaluate(self) -> dict[str, float]:
            self.evaluations += 1
            if self.evaluations == 2:
                self.best = [p.clone() for p in self.trained.parameters()]
            return {"val_loss": 1.0 if self.evaluations == 2 else 2.0 + self.evaluations}

    task = Worsening()
    train(task, tmp_path)
    for a, b in zip(task.trained.parameters(), task.best, strict=True):
        assert torch.equal(a, b)


class Exploding(Regression):
    """The third step's gradient is infinite, and its loss is not."""

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self.batches == 3 and self.trained.training:
            first = next(self.trained.parameters())
            loss = loss + torch.sqrt((first - first.detach()).abs().sum())
        return loss


def test_a_loss_that_is_not_finite_stops_and_keeps_the_state(tmp_path: Path) -> None:
    task = Regression()
    task.y = task.y * math.inf
    with pytest.raises(PenwrightError, match=r"the loss is inf at step 0, .*; no state.*--lr"):
        train(task, tmp_path, schedule="constant")
    train(Regression(), tmp_path, schedule="constant")
    saved = (tmp_path / "state" / "last.pt").read_bytes()
    with pytest.raises(PenwrightError, match=r"the loss is inf at step 6, .*; .*last\.pt"):
        train(task, tmp_path, schedule="constant", steps=9, resume=True)
    assert (tmp_path / "state" / "last.pt").read_bytes() == saved


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path, clip: float) -> None:
    task = Exploding()
    with pytest.raises(
        PenwrightError, match=r"norm of the gradient is (inf|nan) at step 2, .*last"
    ):
        train(task, tmp_path, save_every=1, clip=clip)
    saved = torch.load(tmp_path / "state" / "last.pt")
    assert saved["progress"]["step"] == 2
    for name, tensor in task.trained.state_dict().items():
        assert torch.equal(tensor, saved["trained"][name])


def test_a_fresh_start_forgets_the_state_of_the_run_before(tmp_path: Path) -> None:
    """A crash before the first save must not leave what `--resume` would take for this run's."""

    class Kept(Regression):
        keep_best = True

    class Crashing(Kept):
        def evaluate(self) -> dict[str, float]:
            raise PenwrightError("crash")

    train(Kept(), tmp_path)
    with pytest.raises(PenwrightError, match="crash"):
        train(Crashing(), tmp_path)
    assert os.listdir(tmp_path / "state") == []
    with pytest.raises(UsageError, match="nothing to resume"):
        train(Kept(), tmp_path, resume=True)
    train(Kept(), tmp_path)
    (tmp_path / "state" / "best.pt").unlink()
    with pytest.raises(UsageError, match=r"best\.pt is missing"):
        train(Kept(), tmp_path, resume=True)


def test_a_torn_last_line_of_the_metrics_is_skipped(tmp_path: Path) -> None:
    train(Regression(), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(Regression(stop_at=2), tmp_path / "parts")
    metrics = tmp_path / "parts" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    train(Regression(), tmp_path / "parts", resume=True)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    metrics.write_text('{"step"\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1 is not valid JSON"):
        train(Regression(), tmp_path / "parts", resume=True)


@pytest.mark.parametrize(
    ("every", "expected"), [(0, []), (1, [0, 2, 4, 6, 8]), (3, [0, 4, 6]), (5, [0, 6])]
)
def test_samples_come_with_the_first_evaluation_at_or_after_each_multiple(
    tmp_path: Path, every: int, expected: list[int]
) -> None:
    found = []

    class Sampled(Regression):
        def samples(self) -> list[str]:
            found.append(run.progress.step)
            return []

    run = Run(Sampled(), settings(steps=8, sample_every=every), tmp_path)
    run.train()
    assert found == expected


def test_a_step_without_a_target_is_an_error_and_not_nan(tmp_path: Path) -> None:
    class Masked(Regression):
        def batch(self, examples: Sequence[int]) -> Batch:
            whole = super().batch(examples)
            return Batch(whole.inputs, whole.targets, whole.lengths, count=0)

    with pytest.raises(PenwrightError, match="no example of its batches has a target"):
        train(Masked(), tmp_path)


def test_a_run_leaves_metrics_and_a_plot(tmp_path: Path) -> None:
    train(Regression(), tmp_path)
    lines = records(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 2, 4, 6]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_resuming_needs_a_state_and_the_same_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        train(Regression(), tmp_path, resume=True)
    train(Regression(), tmp_path)
    with pytest.raises(UsageError, match=r"--lr is 0\.02, but the saved run has 0\.01"):
        train(Regression(), tmp_path, resume=True, lr=0.02)
    with pytest.raises(UsageError, match="--steps is 9"):
        train(Regression(), tmp_path, resume=True, steps=9)


def test_an_optimizer_of_another_network_is_refused(tmp_path: Path) -> None:
    """Its fused kernel would read and write beyond a moment that is too small."""
    train(Regression(), tmp_path)
    path = tmp_path / "state" / "last.pt"
    state = torch.load(path)
    moments = state["optimizer"][0]["state"][0]
    moments["exp_avg"] = moments["exp_avg"][:1]
    torch.save(state, path)
    with pytest.raises(UsageError, match="--resume: the saved optimizer is of another network"):
        train(Regression(), tmp_path, resume=True)


def test_a_steady_run_may_be_made_longer(tmp_path: Path) -> None:
    train(Regression(), tmp_path / "a", schedule="constant")
    train(Regression(), tmp_path / "a", schedule="constant", steps=9, resume=True)
    train(Regression(), tmp_path / "b", schedule="constant", steps=9)
    saved = [torch.load(tmp_path / name / "state" / "last.pt")["trained"] for name in "ab"]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_a_run_that_has_decayed_is_not_made_longer(tmp_path: Path) -> None:
    """Of 10 steps the last two decay: from step 8 on, more steps would be another run's."""
    changes = {"schedule": "wsd", "save_every": 1}
    train(Regression(), tmp_path / "b", steps=20, **changes)
    for done, good in ((8, True), (9, False)):
        directory = tmp_path / str(done)
        with pytest.raises(Stopped):
            train(Regression(stop_at=done - 1), directory, steps=10, **changes)
        if good:
            train(Regression(), directory, steps=20, resume=True, **changes)
            assert_same_state(directory, tmp_path / "b")
        else:
            with pytest.raises(UsageError, match="--steps is 20, but the saved run has 10"):
                train(Regression(), directory, steps=20, resume=True, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0, "epochs": math.inf}, "--epochs is inf; it must be a finite number"),
        ({"steps": 0, "epochs": math.nan}, "--epochs is nan"),
        ({"lr": math.inf}, "--lr is inf"),
        ({"seed": 2**63}, "--seed is 9223372036854775808; it must be below 2"),
        ({"epochs": 1.0}, "exactly one of --steps, --epochs and --tokens"),
        ({"steps": 0}, "exactly one of"),
        ({"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        ({"lr": 0.0}, "--lr is 0.0; it must be above 0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
        ({"precision": "fp8"}, "--precision is fp8"),
        ({"device": "tpu"}, "--device is tpu"),
        ({"clip": -1.0}, "--clip is -1.0"),
    ],
)
def test_bad_settings_name_their_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**changes)
