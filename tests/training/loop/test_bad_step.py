"""Losses that stop a run, and what is said of them."""

import json
import math
from pathlib import Path

import pytest
from torch import Tensor

from tests.training.loop.worker import Tokens, settings
from training.loop.guards import complaint
from training.loop.run import BadStep, Batch, Run

USUAL = [1.0, 1.2, 0.8, 1.1, 0.9] * 5  # mean 1, deviation 0.1414


def test_a_spike_is_measured_in_deviations_of_the_steps_before() -> None:
    assert complaint(1.0 + 4.9 * 0.1414, USUAL, 5.0) == ""
    said = complaint(1.0 + 5.1 * 0.1414, USUAL, 5.0)
    assert said.startswith("the loss is 1.721, above 1, the mean of the last 25 steps, by more")
    assert complaint(9.0, USUAL, 0.0) == ""
    assert complaint(9.0, USUAL[:19], 5.0) == ""
    assert complaint(math.nan, [], 0.0) == "the loss is nan"


class Spiking(Tokens):
    """The loss of the 24th step is ten times what it should be."""

    calm = False

    def loss(self, batch: Batch) -> Tensor:
        wrong = self.batches == 24 and self.trained.training and not self.calm
        return super().loss(batch) * (10 if wrong else 1)


def test_a_spike_stops_the_run_before_its_step(tmp_path: Path) -> None:
    changes = {"steps": 26, "save_every": 10, "eval_every": 100, "spike": 8.0}
    task = Spiking()
    run = Run(task, settings(**changes), tmp_path)
    with pytest.raises(BadStep, match=r"--spike 8 .* at step 23, examples .*; .*last\.pt") as error:
        run.train()
    report = json.loads((tmp_path / "bad-step.json").read_text())
    assert report["step"] == 23
    assert report["examples"] == [run.order[23 * 4 + i] for i in range(4)]
    assert f"examples {', '.join(map(str, report['examples']))} " in str(error.value)
    calm = Spiking()
    calm.calm = True
    resumed = Run(calm, settings(**{**changes, "spike": 0.0}), tmp_path)
    resumed.train(resume=True)
    whole = Spiking()
    whole.calm = True
    Run(whole, settings(**changes), tmp_path / "whole").train()
    for a, b in zip(calm.trained.parameters(), whole.trained.parameters(), strict=True):
        assert a.equal(b)
