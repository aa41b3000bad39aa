"""What a network answers to instructions: greedily, through the engine that also serves; and how
good the answers are.

exact_match   the share of responses that are the output, or one that the row accepts, leaving
              aside case, spacing, quotation marks and a full stop at the end
kinds         the same by kind, of rows to which only one answer is right
rouge_l       the mean F1 of the longest common subsequence of words (Lin, ROUGE: A Package for
              Automatic Evaluation of Summaries, 2004, section 3), words being runs of letters and
              digits in lower case, without stemming; of several right outputs the best counts
ended         the share that the network ended by itself, with the end token
second_turn   the share that goes on with an instruction of its own
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model.checkpoint import Adapter, Base
from model.engine.request import Generate, Request
from model.engine.settings import EngineSettings
from model.lora import LoRA
from model.prompts import Message, Template, encode
from model.sampling import SamplingSettings
from model.tokenizer import Tokenizer
from training.data.conversations import Instruction
from training.data.documents import normalise
from training.measure.intervals import bootstrap_mean, proportion
from training.measure.samples import answers

MAX_NEW_TOKENS = 128
_GREEDY = SamplingSettings(temperature=0)

_QUOTES = re.compile(r"(?<!\w)['\"‘’“”`]+|['\"‘’“”`]+(?!\w)")
_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Response:
    """One row with what the network answered."""

    instruction: str
    input: str
    output: str
    """The answer in the data."""
    response: str
    """The network's."""
    kind: str = ""
    unique: bool = True
    accept: tuple[str, ...] = ()
    ended: bool = True
    """Whether the network ended it, not the limit."""
    earlier: tuple[Message, ...] = ()
    """What was said before the instruction, in a chat."""

    @property
    def right(self) -> tuple[str, ...]:
        """All answers that are known to be right."""
        return (self.output, *self.accept)

    @property
    def exact(self) -> bool:
        """Whether it is a right answer, leaving aside what the module says."""
        return comparable(self.response) in {comparable(text) for text in self.right}

    @property
    def rouge_l(self) -> float:
        return max(rouge_l(text, self.response) for text in self.right)

    @property
    def second_turn(self) -> bool:
        """Whether it goes on with an instruction."""
        return "### Instruction" in self.response


def comparable(text: str) -> str:
    """What two answers share that differ in case, spacing, quotation marks or a last full stop."""
    return " ".join(_QUOTES.sub(" ", normalise(text)).split()).rstrip(" .").replace(" .", ".")


def rouge_l(reference: str, text: str) -> float:
    """F1 of the longest common subsequence of words, in [0, 1]."""
    one, two = (_WORDS.findall(side.lower()) for side in (reference, text))
    if not one or not two:
        return float(one == two)
    best = [0] * (len(two) + 1)  # of the words so far, by how many of `two` are read
    for word in one:
        diagonal = 0
        for at, other in enumerate(two, start=1):
            above = best[at]
            best[at] = diagonal + 1 if word == other else max(above, best[at - 1])
            diagonal = above
    return 2 * best[-1] / (len(one) + len(two))


def prompt_tokens(row: Instruction, tokenizer: Tokenizer, template: Template) -> tuple[int, ...]:
    """What a network reads before it answers a row, as the service puts it."""
    return tuple(encode(template.render(row.messages), tokenizer).ids)


def respond(
    base: Base,
    lora: LoRA | None,
    rows: Sequence[Instruction],
    template: Template,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Response]:
    """Answer all rows. Their prompts must leave room in the context for a token at least."""
    adapters = _adapters(base, lora)
    requests = []
    for number, row in enumerate(rows):
        tokens = prompt_tokens(row, base.tokenizer, template)
        room = base.config.context_length - len(tokens)
        want = Generate(min(max_new_tokens, room), _GREEDY)
        requests.append(Request(str(number), tokens, want, "tuned" if adapters else None))
    return [
        Response(
            row.instruction,
            row.input,
            row.output,
            text.strip(),
            row.kind,
            row.unique,
            row.accept,
            ended=reason != "length",
            earlier=row.earlier,
        )
        for row, (text, reason) in zip(rows, answers(base, adapters, requests), strict=True)
    ]


def rehearse(
    base: Base, lora: LoRA | None, rows: Sequence[Instruction], template: Template
) -> None:
    """Take the memory that `respond` takes at most, in a moment: the longest prompts, each already
    followed by an answer of the largest length but for its last token."""
    adapters, most = _adapters(base, lora), EngineSettings().slots
    prompts = [prompt_tokens(row, base.tokenizer, template) for row in rows]
    requests = []
    for number, tokens in enumerate(sorted(prompts, key=len)[-most:]):
        new = min(MAX_NEW_TOKENS, base.config.context_length - len(tokens))
        filled = (*tokens, *tokens[-1:] * (new - 1))
        name = "tuned" if adapters else None
        requests.append(Request(str(number), filled, Generate(1, _GREEDY), name))
    answers(base, adapters, requests)


def _adapters(base: Base, lora: LoRA | None) -> dict[str, Adapter]:
    if lora is None:
        return {}
    return {"tuned": Adapter(base.path, "", "instruct", lora=lora.eval(), head=None, card={})}


def exact_match(responses: Sequence[Response]) -> dict[str, Any]:
    """The share of exact responses, with its interval."""
    return proportion(sum(response.exact for response in responses), len(responses))


def response_metrics(responses: Sequence[Response]) -> dict[str, Any]:
    """All figures that the module names, with n and interval; `kinds` where rows have any."""
    found: dict[str, Any] = {
        "exact_match": exact_match(responses),
        "rouge_l": bootstrap_mean([response.rouge_l for response in responses]),
        "ended": proportion(sum(r.ended for r in responses), len(responses)),
        "second_turn": proportion(sum(r.second_turn for r in responses), len(responses)),
    }
    unique = [response for response in responses if response.kind and response.unique]
    kinds = sorted({response.kind for response in unique})
    if kinds:
        found["kinds"] = {
            kind: exact_match([response for response in unique if response.kind == kind])
            for kind in kinds
        }
    return found


def responses_file(responses: Sequence[Response]) -> bytes:
    """The responses as JSON."""
    rows = [{**asdict(r), "exact": r.exact} for r in responses]
    return (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()
