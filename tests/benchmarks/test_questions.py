"""The sixty small questions: what counts as answered, and that nothing learns from them."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.questions import Question, questions, summary
from training.data.conversations import read_instructions
from training.data.documents import normalise


def test_there_are_twelve_of_each_kind() -> None:
    kinds = Counter(question.kind for question in questions())
    assert kinds == dict.fromkeys(("fact", "words", "sums", "extraction", "grammar"), 12)
    assert all(question.right for question in questions())


@pytest.mark.parametrize(
    ("response", "answered"),
    [
        ("8", True),
        ("Eight legs.", True),
        ("A spider has 8 legs, in pairs.", True),
        ("18 legs", False),
        ("8th", False),
        ("", False),
    ],
)
def test_a_right_answer_stands_as_whole_words(response: str, answered: bool) -> None:
    assert Question("fact", "How many legs?", "", ("8", "eight")).answered(response) is answered


def test_an_answer_with_signs_at_its_ends() -> None:
    question = Question("grammar", "Correct it.", "Where are you", ("Where are you?",))
    assert question.answered("'Where are you?'")
    assert not question.answered("Where are you")


def test_the_summary_counts_by_kind() -> None:
    one, two = Question("fact", "a", "", ("x",)), Question("sums", "b", "", ("y",))
    assert summary([(one, "x"), (two, "x")]) == "1 of 2: fact 1 of 1, sums 0 of 1"


def test_no_instruction_of_the_recipes_is_among_them(real_data: Path) -> None:
    asked = {normalise(f"{each.instruction} {each.input}") for each in questions()}
    files = sorted((real_data / "instructions").iterdir())
    assert files
    for file in files:
        for row in read_instructions(file):
            assert normalise(f"{row.instruction} {row.input}") not in asked, file.name
