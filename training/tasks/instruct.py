"""A model that follows instructions."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base
from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.prompts import Template
from training.data.given import NONE_GIVEN, Given
from training.data.instructions import InstructionData, load_instructions
from training.data.lengths import Lengths
from training.data.splits import Parts
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.measure.answers import responses_file
from training.objectives.conversations import Conversations
from training.objectives.responses import InstructionTuning, encode_parts, measure, rehearse
from training.tasks.training import Job, Training, train
from training.tuning.methods import Method, Tuning, load_tunable, start_tuning
from training.tuning.network import Network
from training.tuning.publishing import card_fields, identity, keep_apart, publish
from training.tuning.template import AUTO, template_of

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
    given: Given = NONE_GIVEN,
    encoding: str | None = None,
    template: str = AUTO,
    lengths: Lengths | None = None,
    packing: bool = False,
) -> Base | Adapter | None:
    """Fine-tune a base on instructions and publish the result.

    Args:
        template: the name of the one in which conversations are written.
        packing: put several conversations into one row of a batch.
        repeats, given, encoding: as `training.data.instructions.load_instructions` takes them.

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
        rows = load_instructions(data, repeats=repeats, given=given, known=known, encoding=encoding)
        if rows.learnt:
            print(
                f"{rows.learnt} rows are no test any more: --base has learnt them", file=sys.stderr
            )
        held = method.held(settings, directory if job.resume else None)
        loaded = load_tunable(base, held)
        form = template_of(loaded, template)
        lengths = lengths or Lengths()
        parts = encode_parts(rows, loaded, data, form, lengths)
        adapters = method.adapters(settings)
        tuning = start_tuning(loaded, method.name, adapters, None, settings, held)
        training = InstructTraining(tuning, rows, parts, settings, form, lengths, packing=packing)
        training.identity = {
            "repeat": list(repeats),
            **given.identity(),
            **training.identity,
        }
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
        parts: Mapping[str, Conversations],
        settings: LoopSettings,
        template: Template,
        lengths: Lengths,
        *,
        packing: bool,
    ) -> None:
        self.tuning, self.data, self.encoded = tuning, data, parts
        self.template, self.packing = template, packing
        self.limit = lengths.limit(tuning.base.config.context_length)
        self.task = InstructionTuning(
            tuning,
            parts["train"],
            parts["val"],
            settings,
            template,
            packed=self.limit if packing else 0,
        )
        self.model = tuning.network.model
        self.identity = {
            **identity(tuning, data.sources),
            "template": template.settings(),
            "max_length": self.limit,
            "cut": lengths.cut,
            "packing": packing,
        }
        self.parts = data.parts()

    @property
    def what(self) -> str:
        return f"{self.tuning.method} instruction follower"

    def _measured(self) -> tuple[Base, Network, Conversations, Network, Template]:
        network, base = self.tuning.network, self.tuning.base
        untuned = Network(base.model).to(network.device)
        return base, network, self.encoded["test"], untuned, self.template

    def rehearse_measuring(self) -> None:
        rehearse(*self._measured())

    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        data, parts, template = self.data, self.encoded, self.template
        metrics, responses = measure(*self._measured())
        write_file(directory / "responses.json", responses_file(responses))
        return {
            **card_fields(self.tuning),
            "template": {"name": template.name, "version": template.version},
            "max_length": self.limit,
            "packing": self.packing,
            "data": {
                "files": list(data.sources),
                "rows": data.rows,
                "duplicates": data.duplicates,
                "without_passage": data.without_passage,
                "split": {
                    "rule": data.split_rule,
                    "counts": {name: len(part) for name, part in parts.items()},
                },
                "too_long": {name: len(part.too_long) for name, part in parts.items()},
            },
            "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
        }

    def publish(self, out: Path, card: dict[str, Any]) -> Base | Adapter:
        return publish(out, self.tuning, "instruct", card, self.parts, self.template)


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
