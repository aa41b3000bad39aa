"""Rounds, ratios, and the table that is made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.rounds import Outcome, Turn, Work, compare, table
from benchmarks.worker import WorkerFailed


class Crew:
    """What `compare` needs of `Workers`, without processes."""

    def __init__(self, running: list[str], missing: dict[str, str]) -> None:
        self.running: dict[str, Any] = {name: name for name in running}
        self.missing = missing

    def missing_of(self, work: Work) -> dict[str, str]:
        return self.missing


def turns(rates: dict[str, list[float]], order: list[str]) -> dict[str, tuple[str, Turn]]:
    def turn_of(name: str) -> Turn:
        def turn(worker: Any, number: int) -> dict[str, float]:
            order.append(f"{number}{name}")
            if rates[name][number] < 0:
                raise WorkerFailed("broke")
            return {"work": rates[name][number]}

        return turn

    return {name: (name, turn_of(name)) for name in rates}


def test_warm_up_is_dropped_and_the_order_rotates() -> None:
    order: list[str] = []
    rates = {"a": [900.0, 2.0, 6.0, 4.0], "b": [1.0, 1.0, 2.0, 4.0]}
    crew: Any = Crew(["a", "b"], {})
    (outcome,) = compare(crew, [Work({"work": "x/s"}, turns(rates, order))], 3)
    assert order == ["0a", "0b", "1b", "1a", "2a", "2b", "3b", "3a"]
    assert outcome.rates == {"a": [2.0, 6.0, 4.0], "b": [1.0, 2.0, 4.0]}
    assert outcome.median("a") == 4.0
    assert outcome.ratio("a", "b") == 2.0  # of 2, 3 and 1


def test_one_that_fails_or_is_missing_has_no_figures() -> None:
    rates = {"a": [1.0, 2.0, 2.0], "b": [1.0, 9.0, -1.0], "c": [1.0, 1.0, 1.0]}
    crew: Any = Crew(["a", "b"], {"c": "not installed"})
    (outcome,) = compare(crew, [Work({"work": "x/s"}, turns(rates, []))], 2)
    assert outcome.rates == {"a": [2.0, 2.0]}
    assert outcome.failed == {"c": "not installed", "b": "broke"}
    assert "not installed" in table([outcome], "a")
    assert outcome.best_peer("a") is None


def run_of(*outcomes: Outcome) -> dict[str, Any]:
    about = {"command": "c", "date": "d", "rounds": 2, "quick": False, "threads": 1}
    machine = {"processor": "P", "family": "1/2", "features": [], "cores": 1, "memory_gb": 1}
    works = [json.loads(json.dumps(o.to_dict("penwright"))) for o in outcomes]
    return {**about, "machine": machine, "versions": {"torch": "2"}, "works": works}


def test_the_table_has_ratios_goals_and_who_is_missing() -> None:
    outcome = Outcome("decoding one sequence", "tokens/s")
    outcome.rates = {"penwright": [30.0, 30.0], "llama.cpp-q8_0": [15.0, 10.0]}
    outcome.rates["transformers-fp32"] = [10.0, 10.0]
    outcome.fail("ctranslate2-int8", "not installed: x")
    text = report.report({"decode": run_of(outcome)})
    assert "2.50 × llama.cpp-q8_0 (goal 1.5)" in text
    assert "3.00 × transformers-fp32 (goal 9: missed)" in text
    assert "ctranslate2-int8: not installed: x" in text
    assert "ctranslate2-int8: no ratio" in text  # and no other peer in its place
    assert "n = 2 rounds" in text


def test_only_what_is_between_the_markers_changes() -> None:
    old = f"before {report.BEGIN} old {report.END} after"
    new = report.replace(old, "new")
    assert new == f"before {report.BEGIN}\n\nnew\n\n{report.END} after"
    assert report.replace(new, "new") == new
    with pytest.raises(SystemExit, match="markers"):
        report.replace("no markers", "new")


def test_the_readme_has_the_markers_and_what_is_kept_can_be_shown() -> None:
    readme = report.README.read_text("utf-8")
    assert readme.count(report.BEGIN) == readme.count(report.END) == 1
    directory = Path(report.__file__).parent / "results"
    results = report.read_results(directory)
    assert set(results) <= set(report.NAMES)
    assert isinstance(report.report(results), str)
