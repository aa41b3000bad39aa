"""The instruction template, letter by letter: models were trained on it."""

from model.prompts import instruction_prompt

_HEAD = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


def test_without_input() -> None:
    assert instruction_prompt("Name a bird.") == (
        f"{_HEAD}\n\n### Instruction:\nName a bird.\n\n### Response:\n"
    )


def test_with_input() -> None:
    assert instruction_prompt("Correct it.", "She go.") == (
        f"{_HEAD}\n\n### Instruction:\nCorrect it.\n\n### Input:\nShe go.\n\n### Response:\n"
    )


def test_an_empty_input_is_none() -> None:
    assert instruction_prompt("Name a bird.", "") == instruction_prompt("Name a bird.")
