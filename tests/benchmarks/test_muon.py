"""The comparison of the optimizers, and the costs of the ways of fine-tuning."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import finetune, muon, report
from benchmarks.rounds import Outcome
from training.data.vocabulary import save_tokenizer, train_tokenizer

Curve = list[dict[str, float]]


def curve(*losses: float, tokens: float = 100.0) -> Curve:
    steps = max(1, len(losses) - 1)
    return [{"tokens": i * tokens / steps, "val_loss": loss} for i, loss in enumerate(losses)]


def ending_at(finals: dict[float, float]) -> Any:
    """What trains, without training: each rate ends at its loss."""

    class Runs:
        tried: list[float] = []  # noqa: RUF012

        def curve(self, optimizer: str, lr: float, share: float = 1.0) -> Curve:
            self.tried.append(lr)
            return curve(9.0, finals[lr])

    return Runs()


def test_the_grid_goes_on_while_the_best_is_at_its_end() -> None:
    runs = ending_at({1.0: 5.0, 2.0: 4.0, 4.0: 3.0, 8.0: 3.5})
    found = muon.tune(runs, "muon", (1.0, 2.0, 4.0))
    assert list(found) == [1.0, 2.0, 4.0, 8.0]
    assert muon.best_rate(found) == 4.0
    within = ending_at({1.0: 5.0, 2.0: 3.0, 4.0: 4.0})
    assert list(muon.tune(within, "muon", (1.0, 2.0, 4.0))) == [1.0, 2.0, 4.0]
    down = ending_at({2.0**i: float(i) for i in range(-9, 9)})
    assert list(muon.tune(down, "muon", (1.0, 2.0, 4.0))) == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_a_run_that_went_astray_is_never_the_best() -> None:
    assert muon.best_rate({1.0: curve(9.0, 5.0), 2.0: []}) == 1.0


def test_tokens_are_interpolated_between_whole_runs() -> None:
    runs = [(1.0, 3.0), (0.5, 4.0)]
    assert muon.tokens_to(3.5, runs) == pytest.approx(0.5**0.5)  # half way, by the logarithm
    assert muon.tokens_to(3.0, runs) == 1.0
    assert muon.tokens_to(4.5, runs) == 0.5
    assert muon.tokens_to(2.9, runs) is None


def test_the_result_and_its_table() -> None:
    curves = {
        "adamw": {1.0: curve(9, 6, 5), 2.0: curve(9, 5, 4), 4.0: curve(9, 6, 4.5)},
        "muon": {1.0: curve(9, 4.5, 3.5), 2.0: curve(9, 4, 3), 4.0: curve(9, 5, 3.2)},
    }
    shorter = {0.75: curve(9, 3.5, tokens=75), 0.5: curve(9, 4.5, tokens=50)}
    found = muon.result_of(curves, shorter)
    assert found["best_lr"] == {"adamw": 2.0, "muon": 2.0}
    assert found["lr_at_edge"] == {"adamw": False, "muon": False}
    assert found["muon_tokens_of_adamw"] == pytest.approx(0.612, abs=1e-3)
    assert found["crossed_within_whole_run"] == 0.5
    run = json.loads(json.dumps({"curves": curves, "result": found}))
    assert "0.612 (goal 0.75)" in report.SECTIONS["muon"](run)
    none = muon.result_of({**curves, "muon": {1.0: curve(9, 8, 7)}}, {})
    assert none["muon_tokens_of_adamw"] is None
    run = json.loads(json.dumps({"curves": curves, "result": none}))
    assert "never there (goal 0.75: missed)" in report.SECTIONS["muon"](run)
    assert "muon's is the last one tried" in report.SECTIONS["muon"](run)


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    curves = {"adamw": {1.0: curve(9, 6, 5), 2.0: []}, "muon": {1.0: curve(9, 4, 3)}}
    muon.plot(curves, {0.5: curve(9, 4.5)}, tmp_path / "muon.svg")
    assert "<svg" in (tmp_path / "muon.svg").read_text()


def test_a_stopped_run_is_gone_on_with_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    told = "the cat sat on a mat and the dog ran to the red barn"
    text = "\n".join(told[i % 7 :] + told[: i % 5] for i in range(200))
    (tmp_path / "text.txt").write_text(text)
    save_tokenizer(train_tokenizer([text], 270), tmp_path / "t.tiktoken")
    plan = muon.Plan(
        work=tmp_path / "work",
        text=(tmp_path / "text.txt",),
        tokenizer=tmp_path / "t.tiktoken",
        shape="tiny",
        tokens=4 * 32 * 20,
        batch=4,
        threads=1,
    )
    with pytest.raises(SystemExit) as stopped:
        muon.Runs(plan, until=time.monotonic()).curve("muon", 1e-3)
    assert stopped.value.code == muon.STOPPED
    found = muon.Runs(plan).curve("muon", 1e-3)
    assert [point["tokens"] for point in found] == [128.0 * step for step in range(21)]
    assert found[-1]["val_loss"] < found[0]["val_loss"]
    (tmp_path / "text.txt").unlink()  # nothing is read or trained any more
    assert muon.Runs(plan).curve("muon", 1e-3) == found


def test_the_first_epoch_is_not_in_the_rate_of_fine_tuning() -> None:
    entries: list[dict[str, float]] = [{"step": 0, "val_loss": 1.0}]
    for step in range(12):
        rate = 1.0 if step < 4 else 200.0
        entries.append({"step": step, "batch_tokens": 100, "tokens_per_second": rate})
    assert finetune.rate([json.dumps(entry) for entry in entries]) == pytest.approx(32.0)


def test_the_table_of_fine_tuning_tells_costs() -> None:
    outcome = Outcome("classifier", "texts/s")
    outcome.rates = {"full": [10.0, 20.0], "last-block": [20.0, 40.0]}
    outcome.rates |= {"lora": [10.0, 40.0], "head": [100.0, 200.0]}
    costs = finetune.costs(outcome)
    assert costs == {"full": 1.0, "last-block": 0.5, "lora": 0.75, "head": 0.1}
    text = report.SECTIONS["finetune"]({"works": [outcome.to_dict("full")], "cost_of_full": costs})
    assert "classifier, head | 150 | 0.10 |" in text
