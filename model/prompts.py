"""The instruction template: one function for training and for serving.

It is the Alpaca style of Taori et al. (2023), which the book uses, and ends where the response
begins. A response is trained to end with the end token.
"""

TEMPLATE = "alpaca"
TEMPLATE_VERSION = 1


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
