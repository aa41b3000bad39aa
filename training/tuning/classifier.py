"""The run of a classifier, from split texts to calibrated weights; once, or once for each fold."""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import Base
from model.classifier import Labels
from model.lora import LoRASettings
from training.data.augment import Copies
from training.data.folds import ExtraTexts
from training.data.labelled import LabelledData
from training.loop.run import Progress, Run
from training.loop.settings import LoopSettings
from training.measure.classifiers import calibrate
from training.objectives.labels import Classification, Options, Rows, encode
from training.tuning import methods as finetune
from training.tuning.methods import Tuning


@dataclass(frozen=True)
class Prepared:
    """A run that has not begun."""

    tuning: Tuning
    task: Classification
    run: Run
    parts: dict[str, Rows]
    """`train`, with the extra texts; `val` and `test`."""
    extra: int
    """Extra texts in the training part."""
    identity: dict[str, Any]
    """What a resumed run must share with the first, beside the loop's settings."""

    def train(self, *, resume: bool) -> Progress:
        """To the end; then round to what is saved, and calibrate on the validation part."""
        progress = self.run.train(resume=resume, describe=self.identity)
        finetune.round_as_saved(self.tuning.trained)
        calibrate(self.tuning.network, self.parts["val"], self.task.padding)
        return progress


@dataclass(frozen=True)
class Trainer:
    """All that turns split texts into a run."""

    args: argparse.Namespace
    settings: LoopSettings
    options: Options
    lora: LoRASettings
    base: Base
    labels: Labels
    extra: ExtraTexts

    def prepare(self, data: LabelledData, directory: Path) -> Prepared:
        """A run on `data` in `directory`.

        Raises:
            UsageError: flags that do not fit the base or the data.
        """
        base, settings, labels = self.base, self.settings, self.labels
        tuning = finetune.start_tuning(base, self.args.method, self.lora, labels, settings)
        extra = self.extra.beside(data)
        examples = {"train": [*data.train, *extra], "val": data.val, "test": data.test}
        context = base.config.context_length
        parts = {
            name: encode(part, labels.names, base.tokenizer, context)
            for name, part in examples.items()
        }
        cut = sum(rows.truncated for rows in parts.values())
        if cut:
            print(f"{cut} texts are longer than the context and cut at its end", file=sys.stderr)
        copies = None
        if self.options.augment:
            texts = [example.text for example in examples["train"]]
            copies = Copies(
                texts, self.options.augmentation, settings.seed, base.tokenizer, context
            )
        task = Classification(
            tuning,
            parts["train"],
            parts["val"],
            settings,
            self.options,
            copies=copies,
            cache=directory / "activations",
        )
        run = Run(task, settings, directory, task.order())
        identity = {
            **finetune.identity(self.args, tuning, data.sources),
            "positive": labels.positive,
            "class_weights": self.options.class_weights,
            "lm_weight": self.options.lm_weight,
            "augment": list(self.options.augment),
            "extra": self.extra.sources,
        }
        return Prepared(tuning, task, run, parts, len(extra), identity)

    def settings_card(self) -> dict[str, Any]:
        """The options, for cards; where activations are kept changes nothing."""
        return {
            field.name: getattr(self.options, field.name)
            for field in dataclasses.fields(self.options)
            if field.name != "cache_mb"
        }
