"""The instruction template, letter by letter: models were trained on it."""

from model.prompts import chat_prompt, instruction_prompt

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


def test_a_chat_has_system_texts_and_the_last_message_as_instruction_and_the_rest_as_input() -> (
    None
):
    assert chat_prompt(
        [
            ("system", "Be brief."),
            ("user", "Hello!\nI am Tom."),
            ("assistant", ""),
            ("system", ""),
            ("assistant", "Hi."),
            ("system", "Be kind."),
            ("user", "Who are you?"),
        ]
    ) == (
        f"{_HEAD}\n\n### Instruction:\nBe brief.\n\nBe kind.\n\nWho are you?"
        "\n\n### Input:\nUser: Hello!\nI am Tom.\nAssistant: \nAssistant: Hi."
        "\n\n### Response:\n"
    )


def test_a_chat_of_one_message_is_the_template_alone() -> None:
    assert chat_prompt([("user", "Name a bird.")]) == instruction_prompt("Name a bird.")
