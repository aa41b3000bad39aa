"""How many of sixty small questions a model answers: facts, words, sums, extraction, grammar.

    python -m benchmarks.questions BASE [ADAPTER] [--wrong]

`questions.json` has them, twelve of each kind, with what a right answer says: one of the words or
phrases, as whole words, whatever else stands around it. Answers are greedy, in the model's own
template, in fp32. None is among the instructions that the recipes learn from (a test holds it).
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import load_adapter, load_base
from training.data.conversations import Instruction
from training.measure.answers import respond
from training.tuning.template import AUTO, template_of

FILE = Path(__file__).with_name("questions.json")
MAX_NEW_TOKENS = 60


@dataclass(frozen=True)
class Question:
    kind: str
    instruction: str
    input: str
    right: tuple[str, ...]
    """Of these a right answer has at least one."""

    def answered(self, response: str) -> bool:
        """Whether a response has a right answer as whole words, whatever their case."""
        return any(
            re.search(rf"(?<!\w){re.escape(text)}(?!\w)", response, re.IGNORECASE)
            for text in self.right
        )


def questions() -> list[Question]:
    rows = json.loads(FILE.read_text("utf-8"))
    return [Question(**{**row, "right": tuple(row["right"])}) for row in rows]


def ask(base: Path, adapter: Path | None) -> list[tuple[Question, str]]:
    """Each question with the model's response."""
    loaded = load_base(base)
    lora = None if adapter is None else load_adapter(adapter, loaded).lora
    asked = questions()
    rows = [Instruction(each.instruction, each.input, "") for each in asked]
    found = respond(loaded, lora, rows, template_of(loaded, AUTO), MAX_NEW_TOKENS)
    return [(each, one.response) for each, one in zip(asked, found, strict=True)]


def summary(found: Sequence[tuple[Question, str]]) -> str:
    kinds = Counter(question.kind for question, _ in found)
    right = Counter(question.kind for question, text in found if question.answered(text))
    parts = ", ".join(f"{kind} {right[kind]} of {count}" for kind, count in kinds.items())
    return f"{right.total()} of {kinds.total()}: {parts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path, nargs="?")
    parser.add_argument("--wrong", action="store_true", help="print what was answered wrongly")
    given = parser.parse_args()
    found = ask(given.base, given.adapter)
    for question, text in found:
        if given.wrong and not question.answered(text):
            print(f"{question.kind}: {question.instruction} {question.input}\n    {text!r}")
    print(summary(found))


if __name__ == "__main__":
    main()
