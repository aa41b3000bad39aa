"""The instruction template: one function for training and for serving.

It is the Alpaca style of Taori et al. (2023), which the book uses, and ends where the response
begins. A response is trained to end with the end token.
"""

from collections.abc import Sequence
from typing import Literal

TEMPLATE = "alpaca"
TEMPLATE_VERSION = 1

ChatRole = Literal["system", "user", "assistant"]


def instruction_prompt(instruction: str, input: str = "") -> str:
    """The prompt for `instruction`, with `input` as the text it works on if there is one."""
    prompt = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{instruction}"
    )
    if input:
        prompt += f"\n\n### Input:\n{input}"
    return prompt + "\n\n### Response:\n"


def chat_prompt(messages: Sequence[tuple[ChatRole, str]]) -> str:
    """The prompt for the user's last message, with all that was said before it.

    The template has room for one instruction and one input, and models are trained on just that:
    the instruction is what system messages say, then the last message, with blank lines between;
    the input is the earlier turns in order, as lines that begin with `User: ` or `Assistant: `.
    Nothing is left out. A single message of the user's gives `instruction_prompt` of it.

    Args:
        messages: role and text of each; the last one is the user's.
    """
    role, last = messages[-1]
    assert role == "user", "a conversation ends with what is to be answered"
    system = [text for role, text in messages if role == "system" and text]
    earlier = [f"{role.capitalize()}: {text}" for role, text in messages[:-1] if role != "system"]
    return instruction_prompt("\n\n".join([*system, last]), "\n".join(earlier))
