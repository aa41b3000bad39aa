"""A judge's marks of many answers: several at a time, each kept as soon as it is there.

The file has a line for what it is about, then one for each answer and one for each mark. A line
that was cut off is left out when the file is read, and what it said is done again.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.checkpoint.atomic import write_file, writing
from model.errors import DataError, PenwrightError, UsageError
from training.measure.answers import Response
from training.measure.intervals import bootstrap_mean
from training.measure.judge import Judge, Refused, Unavailable, parse_score, question
from training.report.tables import read_metrics

_STOP_AFTER = 3  # rows in succession without an answer: the judge is gone, not slow


@dataclass(frozen=True)
class Mark:
    """What became of one answer. Of a failure, the score is 0."""

    score: int
    answer: str | None
    """The judge's words, if it said any."""
    failure: str | None = None
    """Why there is no score, if there is none."""


class JudgedFile:
    """What is done so far, in a file that only grows.

    Args:
        identity: what the answers and marks depend on.

    Raises:
        UsageError: the file was begun with another identity.
        DataError: it is no such file.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.responses: dict[int, str | None] = {}
        """By row; None where the question leaves no room for an answer."""
        self.marks: dict[int, Mark] = {}
        records = read_metrics(path) if path.exists() else []
        records = records or [{"identity": dict(identity)}]
        try:
            self._check(records[0]["identity"], identity)
            for record in records[1:]:
                row = record.pop("row")
                if "response" in record:
                    self.responses[row] = record["response"]
                else:
                    self.marks[row] = Mark(**record)
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: was not written by `judge`; name another --json") from error
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"identity": dict(identity)}, *map(self._response, self.responses)]
        lines += map(self._mark, self.marks)
        write_file(path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _check(self, saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        for name, value in identity.items():
            if saved[name] != value:
                raise UsageError(
                    f"{self.path} was begun with {name} {saved[name]}, not {value}; name another "
                    "--json, or delete it"
                )

    def _response(self, row: int) -> dict[str, Any]:
        return {"row": row, "response": self.responses[row]}

    def _mark(self, row: int) -> dict[str, Any]:
        return {"row": row, **asdict(self.marks[row])}

    def add_responses(self, found: Mapping[int, str | None]) -> None:
        self.responses.update(found)
        self._append([self._response(row) for row in found])

    def add_mark(self, row: int, mark: Mark) -> None:
        self.marks[row] = mark
        self._append([self._mark(row)])

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        with writing(self.path), self.path.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())


class Marking:
    """Asks the judge about all answers that have no mark yet."""

    def __init__(self, judge: Judge, file: JudgedFile, answers: Mapping[int, Response]) -> None:
        self.judge = judge
        self.file = file
        self.answers = answers
        self.unanswered: dict[int, str] = {}
        """Rows that the judge gave no answer to, with the reason."""
        self._proven = any(mark.answer is not None for mark in file.marks.values())
        self._silent = 0  # rows in succession
        self._stop: PenwrightError | None = None

    async def run(self, concurrency: int) -> None:
        """Mark what can be marked.

        Raises:
            PenwrightError: the judge is out of reach or the wrong one, or left rows without an
                answer. What it did answer is in the file.
        """
        todo = [row for row in self.answers if row not in self.file.marks]
        with tqdm(
            total=len(self.answers), initial=len(self.answers) - len(todo), unit="row"
        ) as bar:
            rows = iter(todo)
            # One row shows whether this is a judge at all, before many are asked.
            if not self._proven:
                await self._work(rows, bar, most=1)
            await asyncio.gather(*(self._work(rows, bar) for _ in range(concurrency)))
        done = sum(row in self.file.marks for row in self.answers)
        if done < len(self.answers):
            reason = self._stop or "; ".join(
                f"row {row}: {why}" for row, why in sorted(self.unanswered.items())[:3]
            )
            raise PenwrightError(
                f"{reason}. {done} of {len(self.answers)} answers have their mark, kept in "
                f"{self.file.path}; the same command goes on"
            )

    async def _work(self, rows: Iterator[int], bar: "tqdm[Any]", most: int = 0) -> None:
        for number, row in enumerate(rows, start=1):
            if self._stop is not None:
                return
            await self._mark(row)
            bar.update(row in self.file.marks)
            if number == most:
                return

    async def _mark(self, row: int) -> None:
        answer = self.answers[row]
        asked = question(
            answer.instruction, answer.input, answer.output, answer.response, answer.earlier
        )
        try:
            said = await self.judge.ask(asked)
        except Unavailable as trouble:
            self.unanswered[row] = str(trouble)
            self._silent += 1
            if not self._proven or self._silent == _STOP_AFTER:
                self._stop = self._stop or trouble
            return
        except Refused as trouble:
            if not self._proven:
                self._stop = PenwrightError(f"{self.judge.endpoint}: {trouble}")
            else:
                self.file.add_mark(row, Mark(0, None, str(trouble)))
            return
        except PenwrightError as trouble:
            self._stop = self._stop or trouble
            return
        self._proven, self._silent = True, 0
        score = parse_score(said)
        failure = "the answer is no whole number from 0 to 100" if score is None else None
        self.file.add_mark(row, Mark(score or 0, said, failure))


def summary(marks: Sequence[Mark]) -> dict[str, Any]:
    """The mean score with its interval, and how many marks are failures."""
    return {
        "n": len(marks),
        "score": bootstrap_mean([float(mark.score) for mark in marks]),
        "failures": sum(mark.failure is not None for mark in marks),
    }
