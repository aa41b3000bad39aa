"""What speculation gains: answers that repeat their input, and others that do not, one at a time.

    python -m benchmarks.speculation [--base DIR] [--rounds 5] [--json FILE]

`speculation.json` has 40 instructions whose answers repeat their input, ten each of extracting,
correcting, rewriting and code, and 40 unrelated ones, which it must not slow down. Each is answered
greedily and drawn at a temperature of 0.7, by two engines that share the base as it is served, one
of them without speculation, in turns. What is timed is the whole answer with its prompt; nothing is
taken from a cache of prefixes, and both texts must be the same. A prompt's ratio is the median over
the rounds of the time without over the time with speculation: above 1 it gains.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.rounds import say
from benchmarks.server import ROOT
from model.checkpoint import Base, load_base
from model.cpu.quantize import quantize
from model.engine.engine import Engine
from model.engine.request import Finished, Generate, Request, Text
from model.engine.settings import EngineSettings
from model.prompts import encode
from model.sampling import SamplingSettings

FILE = Path(__file__).with_name("speculation.json")
BASE = ROOT / "checkpoints" / "default" / "base"
REPEATING = ("extracting", "correcting", "rewriting", "code")
KINDS = (*REPEATING, "unrelated")
SAMPLINGS = {
    "greedy": SamplingSettings(temperature=0),
    "drawn": SamplingSettings(temperature=0.7, seed=1),
}
NEW_TOKENS = 128
_CONTEXT = 1024


@dataclass(frozen=True)
class Prompt:
    kind: str
    instruction: str
    input: str


@dataclass
class Case:
    """A prompt with its sampling settings, and what was measured."""

    prompt: Prompt
    sampling: str
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """By round, without and with speculation."""
    end: Finished | None = None
    """Of the last answer with speculation."""

    @property
    def ratio(self) -> float:
        pairs = zip(self.seconds[False], self.seconds[True], strict=True)
        return statistics.median(without / with_it for without, with_it in pairs)

    def to_dict(self) -> dict[str, Any]:
        assert self.end is not None, "it was measured"
        return {
            "kind": self.prompt.kind,
            "instruction": self.prompt.instruction,
            "sampling": self.sampling,
            "ratio": round(self.ratio, 3),
            "completion_tokens": self.end.completion_tokens,
            "drafted_tokens": self.end.drafted_tokens,
            "accepted_tokens": self.end.accepted_tokens,
            "seconds_without": [round(value, 4) for value in self.seconds[False]],
            "seconds_with": [round(value, 4) for value in self.seconds[True]],
        }


def prompts() -> list[Prompt]:
    return [Prompt(**row) for row in json.loads(FILE.read_text("utf-8"))]


class Pair:
    """Two engines over one base, without and with speculation."""

    def __init__(self, base: Base) -> None:
        self.base = base
        context = min(_CONTEXT, base.config.context_length)
        self.engines = {
            speculate: Engine(
                base,
                {},
                EngineSettings(max_context=context, reuse_prefixes=False, speculate=speculate),
                deliver=lambda events: None,
            )
            for speculate in (False, True)
        }

    def request(self, case: Case) -> Request:
        template = self.base.template
        assert template is not None, "a base without a template answers no instructions"
        messages = template.instruction(case.prompt.instruction, case.prompt.input)
        tokens = encode(template.render(messages), self.base.tokenizer).ids
        want = Generate(NEW_TOKENS, SAMPLINGS[case.sampling])
        return Request(case.sampling, tuple(tokens), want)

    def turn(self, case: Case, *, first: bool) -> dict[bool, float]:
        """Seconds of both, that with speculation `first` or last.

        Raises:
            SystemExit: they do not answer the same.
        """
        request, seconds, texts = self.request(case), {}, set()
        for speculate in (first, not first):
            started = time.perf_counter()
            [events] = self.engines[speculate].run([request])
            seconds[speculate] = time.perf_counter() - started
            texts.add("".join(event.text for event in events if isinstance(event, Text)))
            if speculate:
                assert isinstance(events[-1], Finished), events[-1]
                case.end = events[-1]
        if len(texts) > 1:
            raise SystemExit(f"the answers to {case.prompt.instruction!r} differ: {sorted(texts)}")
        return seconds


def measure(pair: Pair, cases: Sequence[Case], rounds: int) -> None:
    """All cases in every round; the first warms up and is dropped."""
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        for at, case in enumerate(cases):
            for speculate, seconds in pair.turn(case, first=(number + at) % 2 == 0).items():
                if number:
                    case.seconds[speculate].append(seconds)


def summary(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Median and least ratio of each kind, and of all that repeat their input."""

    def of(name: str, kinds: Iterable[str], sampling: str) -> dict[str, Any]:
        ratios = [c.ratio for c in cases if c.prompt.kind in kinds and c.sampling == sampling]
        return {
            "kind": name,
            "sampling": sampling,
            "n": len(ratios),
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
        }

    groups: Mapping[str, Sequence[str]] = {
        **{kind: (kind,) for kind in REPEATING},
        "all that repeat": REPEATING,
        "unrelated": ("unrelated",),
    }
    return [of(name, kinds, sampling) for sampling in SAMPLINGS for name, kinds in groups.items()]


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE, help="a checkpoint with a chat template")
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base(given.base, held="packed")
    if base.template is None:
        parser.error(
            f"--base is {given.base}: it has no chat template, and answers no instructions"
        )
    quantize(base.model)
    asked = prompts()
    if given.quick:
        asked = [next(each for each in asked if each.kind == kind) for kind in KINDS]
    cases = [Case(prompt, sampling) for sampling in SAMPLINGS for prompt in asked]
    rounds = 1 if given.quick else given.rounds
    measure(Pair(base), cases, rounds)
    found = summary(cases)
    for row in found:
        print("{kind:<16} {sampling:<7} × {median:.2f}, at least {min:.2f} (n={n})".format(**row))
    values = record.record(
        "benchmarks.speculation",
        given,
        rounds=rounds,
        new_tokens=NEW_TOKENS,
        summary=found,
        prompts=[case.to_dict() for case in cases],
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
