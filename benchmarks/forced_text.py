"""What forced text gains: JSON of ten schemas, with it and without, one answer at a time.

    python -m benchmarks.forced_text [--base DIR] [--rounds 5] [--json FILE]

`forced_text.json` has ten schemas with instructions: four objects as people have them, three with
keys under four letters, two open arrays and a flat string. It was set down before the work it
measures. Each is answered greedily by two engines that share the base as it is served, one of them
without forced text, in turns; nothing is taken from a cache of prefixes. Both speculate, as they
are served (`--no-speculate`: neither).

What forced text takes are the tokenizer's own tokens, and without it the network may draw others,
so the two answers can differ from the first character on, and so can their lengths. What is timed
is therefore the rate at which text is written: bytes of the answer by the seconds of the whole
request, its prompt included. A schema's ratio is the median over the rounds of the rate with forced
text over the rate without: above 1 it gains. Beside it stands the ratio of the seconds of the whole
answers, which says what a user waits, and whether the answers were the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.rounds import say
from benchmarks.speculation import BASE
from model.checkpoint import Base, load_base
from model.cpu.quantize import quantize
from model.engine.engine import Engine
from model.engine.request import Constraint, Finished, Generate, Request, Text
from model.engine.settings import EngineSettings
from model.prompts import encode
from model.sampling import SamplingSettings

FILE = Path(__file__).with_suffix(".json")
NEW_TOKENS = 160
_CONTEXT = 1024


@dataclass(frozen=True)
class Asked:
    """A schema, and what is to be written in its form."""

    name: str
    kind: str
    instruction: str
    input: str
    schema: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float
    """Of the whole request."""
    steps: int
    end: Finished

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return len(self.text.encode()) / self.seconds


@dataclass
class Case:
    """A schema with what was measured."""

    asked: Asked
    answers: dict[bool, list[Answer]] = field(default_factory=lambda: {False: [], True: []})
    """By round, without and with forced text."""

    @property
    def ratio(self) -> float:
        """Of the rates: above 1, forced text gains."""
        pairs = zip(self.answers[False], self.answers[True], strict=True)
        return statistics.median(with_it.rate / without.rate for without, with_it in pairs)

    @property
    def seconds_ratio(self) -> float:
        """Of the times of whole answers, whatever their lengths."""
        pairs = zip(self.answers[False], self.answers[True], strict=True)
        return statistics.median(without.seconds / with_it.seconds for without, with_it in pairs)

    def to_dict(self) -> dict[str, Any]:
        without, with_it = self.answers[False][-1], self.answers[True][-1]
        return {
            "name": self.asked.name,
            "kind": self.asked.kind,
            "ratio": round(self.ratio, 3),
            "seconds_ratio": round(self.seconds_ratio, 3),
            "same_text": without.text == with_it.text,
            **{
                side: {
                    "text": answer.text,
                    "reason": answer.end.reason,
                    "completion_tokens": answer.end.completion_tokens,
                    "forced_tokens": answer.end.forced_tokens,
                    "steps": answer.steps,
                    "seconds": [round(each.seconds, 4) for each in self.answers[forced]],
                }
                for side, answer, forced in (("without", without, False), ("with", with_it, True))
            },
        }


def asked() -> list[Asked]:
    return [Asked(**row) for row in json.loads(FILE.read_text("utf-8"))]


class Pair:
    """Two engines over one base, without and with forced text."""

    def __init__(self, base: Base, *, speculate: bool = True, new_tokens: int = NEW_TOKENS) -> None:
        self.base = base
        self.new_tokens = new_tokens
        context = min(_CONTEXT, base.config.context_length)
        self.engines = {
            forced: Engine(
                base,
                {},
                EngineSettings(
                    max_context=context,
                    reuse_prefixes=False,
                    speculate=speculate,
                    force_text=forced,
                ),
                deliver=lambda events: None,
            )
            for forced in (False, True)
        }

    def request(self, asked: Asked) -> Request:
        template = self.base.template
        assert template is not None, "a base without a template answers no instructions"
        messages = template.instruction(asked.instruction, asked.input)
        tokens = encode(template.render(messages), self.base.tokenizer).ids
        constraint = Constraint("json_schema", json.dumps(asked.schema))
        want = Generate(self.new_tokens, SamplingSettings(temperature=0), constraint=constraint)
        return Request(asked.name, tuple(tokens), want)

    def answer(self, request: Request, *, forced: bool) -> Answer:
        engine = self.engines[forced]
        assert isinstance(request.want, Generate)
        assert request.want.constraint is not None
        engine.prepare(request.want.constraint)  # compiling takes as long with it as without
        steps, started = engine.stats().steps, time.perf_counter()
        [events] = engine.run([request])
        seconds = time.perf_counter() - started
        end = events[-1]
        assert isinstance(end, Finished), end
        text = "".join(event.text for event in events if isinstance(event, Text))
        return Answer(text, seconds, engine.stats().steps - steps, end)


def measure(pair: Pair, cases: Sequence[Case], rounds: int) -> None:
    """All cases in every round; the first warms up and is dropped."""
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        for at, case in enumerate(cases):
            request, first = pair.request(case.asked), (number + at) % 2 == 0
            for forced in (first, not first):
                answer = pair.answer(request, forced=forced)
                if number:
                    case.answers[forced].append(answer)


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """Median and least ratio of the schemas."""
    ratios = [case.ratio for case in cases]
    return {
        "n": len(ratios),
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "median_of_seconds": round(statistics.median(case.seconds_ratio for case in cases), 3),
    }


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE, help="a checkpoint with a chat template")
    parser.add_argument("--no-speculate", action="store_true", help="no drafts in either engine")
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base(given.base, held="packed")
    if base.template is None:
        parser.error(
            f"--base is {given.base}: it has no chat template, and answers no instructions"
        )
    quantize(base.model)
    cases = [Case(each) for each in asked()[: 2 if given.quick else None]]
    rounds, new_tokens = (1, 16) if given.quick else (given.rounds, NEW_TOKENS)
    measure(Pair(base, speculate=not given.no_speculate, new_tokens=new_tokens), cases, rounds)
    found = summary(cases)
    for case in cases:
        without, with_it = case.answers[False][-1], case.answers[True][-1]
        print(
            f"{case.asked.name:<12} {case.asked.kind:<12} × {case.ratio:.2f}, "
            f"{without.steps} steps and {with_it.steps}"
        )
    print("median × {median:.2f}, at least {min:.2f} (n={n})".format(**found))
    values = record.record(
        "benchmarks.forced_text",
        given,
        rounds=rounds,
        new_tokens=new_tokens,
        summary=found,
        schemas=[case.to_dict() for case in cases],
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
