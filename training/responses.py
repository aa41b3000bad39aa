"""What a network answers to instructions: greedily, through the engine that also serves."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model.checkpoint import Adapter, Base
from model.engine.request import Generate, Request
from model.lora import LoRA
from model.prompts import instruction_prompt
from model.sampling import SamplingSettings
from training.data.instructions import Instruction
from training.data.text import normalise
from training.metrics import proportion
from training.samples import generate

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Response:
    """One row with what the network answered."""

    instruction: str
    input: str
    output: str
    """The answer in the data."""
    response: str
    """The network's."""

    @property
    def exact(self) -> bool:
        """Whether both are the same, case and spacing aside."""
        return normalise(self.output) == normalise(self.response)


def respond(
    base: Base,
    lora: LoRA | None,
    rows: Sequence[Instruction],
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Response]:
    """Answer all rows. Their prompts must leave room in the context for a token at least."""
    adapters = {}
    if lora is not None:
        adapters["tuned"] = Adapter(
            base.path, id="", task="instruct", lora=lora.eval(), head=None, card={}
        )
    requests = []
    for number, row in enumerate(rows):
        tokens = tuple(base.tokenizer.encode(instruction_prompt(row.instruction, row.input)))
        room = base.config.context_length - len(tokens)
        want = Generate(min(max_new_tokens, room), SamplingSettings(temperature=0))
        requests.append(Request(str(number), tokens, want, "tuned" if adapters else None))
    texts = generate(base, adapters, requests)
    return [
        Response(row.instruction, row.input, row.output, text.strip())
        for row, text in zip(rows, texts, strict=True)
    ]


def exact_match(responses: Sequence[Response]) -> dict[str, Any]:
    """The share of exact responses, with its interval."""
    return proportion(sum(response.exact for response in responses), len(responses))


def responses_file(responses: Sequence[Response]) -> bytes:
    """The responses as JSON."""
    rows = [{**asdict(r), "exact": r.exact} for r in responses]
    return (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()
