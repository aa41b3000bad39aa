"""The prompts that speculation is measured on, and what the ratios say."""

from collections import Counter
from dataclasses import replace

from benchmarks.speculation import (
    KINDS,
    NEW_TOKENS,
    REPEATING,
    SAMPLINGS,
    Case,
    Pair,
    Prompt,
    measure,
    prompts,
    summary,
)
from model.prompts.alpaca import Alpaca
from tests.model.engines import exact_base
from tests.model.test_determinism import GPT2


def test_forty_prompts_repeat_their_input_and_forty_have_none() -> None:
    kinds = Counter(prompt.kind for prompt in prompts())
    assert kinds == {**dict.fromkeys(REPEATING, 10), "unrelated": 40}
    assert all(bool(prompt.input) == (prompt.kind != "unrelated") for prompt in prompts())
    assert len({(prompt.instruction, prompt.input) for prompt in prompts()}) == 80


def test_a_ratio_is_the_median_of_its_rounds_and_the_least_is_told() -> None:
    cases = []
    for sampling in ("greedy", "drawn"):
        for kind in KINDS:
            for seconds in ([1.0, 2.0, 9.0], [3.0, 3.0, 3.0]):
                case = Case(Prompt(kind, "", ""), sampling)
                case.seconds = {False: [2.0, 2.0, 2.0], True: seconds}
                cases.append(case)
    assert [case.ratio for case in cases[:2]] == [1.0, 2 / 3]
    rows = {(row["kind"], row["sampling"]): row for row in summary(cases)}
    assert len(rows) == 12
    assert rows["all that repeat", "drawn"]["n"] == 8
    assert all(row["min"] == 0.667 and row["median"] == 0.833 for row in rows.values())


def test_both_engines_answer_the_same_and_are_timed() -> None:
    base = exact_base(replace(GPT2, context_length=1024), None)
    base = replace(base, template=Alpaca())
    cases = [Case(prompts()[at], sampling) for at in (0, 79) for sampling in SAMPLINGS]
    pair = Pair(base)
    measure(pair, cases, 1)
    for case in cases:
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in case.seconds.values())
        assert 0 < case.to_dict()["completion_tokens"] <= NEW_TOKENS
    assert pair.engines[False].stats().drafted_tokens == 0
