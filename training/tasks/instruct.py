"""A model that follows instructions."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base
from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.prompts import TEMPLATE, TEMPLATE_VERSION
from training.data.conversations import InstructionData, load_instructions
from training.data.splits import Parts
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.measure.answers import responses_file
from training.objectives.responses import InstructionTuning, Pairs, encode_parts, measure
from training.tasks.training import Job, Training, train
from training.tuning.methods import Method, Tuning, load_tunable, start_tuning
from training.tuning.network import Network
from training.tuning.publishing import card_fields, identity, keep_apart, publish

METHODS = ("lora", "full")
DEFAULTS: Mapping[str, Any] = {
    "epochs": 4.0,
    "lr": 1e-3,
    "warmup": 20,
    "eval_batches": 0,
    "weight_decay": 0.01,
    "warmup_gives_way": True,
}
"""Of the loop's settings."""


def instruct(
    data: Sequence[Path],
    base: Path,
    job: Job,
    *,
    method: Method | None = None,
    settings: LoopSettings | None = None,
    repeats: Sequence[float] = (),
    test: Sequence[Path] = (),
    encoding: str | None = None,
) -> Base | Adapter | None:
    """Fine-tune a base on instructions and publish the result.

    Args:
        repeats, test, encoding: as `training.data.conversations.load_instructions` takes them.

    Returns:
        The checkpoint; None of a dry run.

    Raises:
        UsageError: a value is not allowed, or does not fit another.
        DataError: a file cannot be used.
    """
    settings, method = settings or LoopSettings(**DEFAULTS), method or Method()
    keep_apart(job.out, "--base", base)
    method.check(METHODS, settings)
    check_repeats(repeats, data)
    with job.directory() as directory:
        known = Parts.known(base)
        rows = load_instructions(data, repeats=repeats, test=test, known=known, encoding=encoding)
        if rows.learnt:
            print(
                f"{rows.learnt} rows are no test any more: --base has learnt them", file=sys.stderr
            )
        held = method.held(settings, directory if job.resume else None)
        loaded = load_tunable(base, held)
        parts = encode_parts(rows, loaded, data)
        tuning = start_tuning(loaded, method.name, method.adapters(settings), None, settings, held)
        training = InstructTraining(tuning, rows, parts, settings)
        tested = [path.name for path in test]
        training.identity = {"repeat": list(repeats), "test": tested, **training.identity}
        training.parts = training.parts.merged(known)
        return train(training, settings, job, directory)


class InstructTraining(Training):
    name = "instruct"
    tuning: Tuning
    identity: dict[str, Any]
    parts: Parts

    def __init__(
        self,
        tuning: Tuning,
        data: InstructionData,
        parts: Mapping[str, Pairs],
        settings: LoopSettings,
    ) -> None:
        self.tuning, self.data, self.encoded = tuning, data, parts
        self.task = InstructionTuning(tuning, parts["train"], parts["val"], settings)
        self.model = tuning.network.model
        self.identity = identity(tuning, data.sources)
        self.parts = data.parts()

    @property
    def what(self) -> str:
        return f"{self.tuning.method} instruction follower"

    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        network, data, parts = self.tuning.network, self.data, self.encoded
        untuned = Network(self.tuning.base.model).to(network.device)
        metrics, responses = measure(self.tuning.base, network, parts["test"], untuned)
        write_file(directory / "responses.json", responses_file(responses))
        return {
            **card_fields(self.tuning),
            "template": {"name": TEMPLATE, "version": TEMPLATE_VERSION},
            "data": {
                "files": list(data.sources),
                "rows": data.rows,
                "duplicates": data.duplicates,
                "without_passage": data.without_passage,
                "split": {
                    "rule": data.split_rule,
                    "counts": {name: len(part.pairs) for name, part in parts.items()},
                },
                "too_long": {name: part.too_long for name, part in parts.items()},
            },
            "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
        }

    def publish(self, out: Path, card: dict[str, Any]) -> Base | Adapter:
        return publish(out, self.tuning, "instruct", card, self.parts)


def check_repeats(repeats: Sequence[float], paths: Sequence[Path]) -> None:
    """
    Raises:
        UsageError: there is not one number for each file, or one is not above 0.
    """
    if repeats and len(repeats) != len(paths):
        raise UsageError(
            f"--repeat has {len(repeats)} numbers; --data has {len(paths)} files: give one for each"
        )
    for number in repeats:
        if not 0 < number < math.inf:
            raise UsageError(
                f"--repeat has {number}; it must be above 0 (leave out a file that is not used)"
            )
