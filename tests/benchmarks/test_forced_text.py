"""The schemas that forced text is measured on, and what the ratios say."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.forced_text import Answer, Case, Pair, asked, measure, summary
from model.engine.request import Finished, Timings
from model.prompts.alpaca import Alpaca
from tests.model.engines import exact_base
from tests.model.test_determinism import GPT2


def test_ten_schemas_of_the_kinds_that_were_set_down() -> None:
    cases = asked()
    kinds = Counter(case.kind for case in cases)
    assert kinds == {"object": 4, "short keys": 3, "open array": 2, "flat string": 1}
    assert len({case.name for case in cases}) == 10
    short = [case for case in cases if case.kind == "short keys"]
    assert all(len(key) < 4 for case in short for key in case.schema["properties"])


def test_a_ratio_is_that_of_the_rates_of_text() -> None:
    end = Finished("stop", 1, 0, 1, Timings(0, 0, 0))
    case = Case(asked()[0])
    case.answers[False] = [Answer("abcd", seconds, 4, end) for seconds in (1.0, 2.0, 4.0)]
    case.answers[True] = [Answer("é" * 4, seconds, 2, end) for seconds in (1.0, 1.0, 1.0)]
    assert case.ratio == pytest.approx(4)
    assert case.seconds_ratio == pytest.approx(2)
    assert case.to_dict()["same_text"] is False
    other = Case(asked()[1], case.answers | {True: case.answers[False]})
    assert summary([case, other]) == {"n": 2, "median": 2.5, "min": 1, "median_of_seconds": 1.5}


def test_both_engines_answer_and_one_of_them_forces() -> None:
    base = exact_base(replace(GPT2, context_length=1024), None)
    pair = Pair(replace(base, template=Alpaca()), new_tokens=40)
    cases = [Case(each) for each in asked()[4:6]]
    measure(pair, cases, 1)
    for case in cases:
        [without], [with_it] = case.answers[False], case.answers[True]
        assert without.end.forced_tokens == 0 < with_it.end.forced_tokens
        assert 0 < with_it.steps < without.steps
        assert without.text[:5] == with_it.text[:5]
