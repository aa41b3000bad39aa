"""The prompts that speculation is measured on, and what the ratios say."""

from collections import Counter

from benchmarks.speculation import KINDS, REPEATING, Case, Prompt, prompts, summary


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
