"""One training of a classifier, from split texts to calibrated weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base
from model.classifier import Labels
from model.frozen import Held
from training.data.augment import Copies
from training.data.folds import ExtraTexts
from training.data.given import Given
from training.data.labelled import Reading
from training.data.labelled_parts import LabelledData, split_rule
from training.data.lengths import Lengths
from training.data.splits import Parts
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.measure.classifiers import accuracy, calibrate, fitted, measure, rehearse
from training.objectives.labels import Classification, Options, Rows, encode
from training.report.tables import plot_confusion
from training.tasks.training import Training
from training.tuning.methods import Method, Tuning, start_tuning
from training.tuning.publishing import card_fields, identity, publish, round_as_saved


@dataclass(frozen=True)
class Recipe:
    """All that turns split texts into a training; once, or once for each fold."""

    base: Base
    known: Parts
    """What the base has learnt."""
    method: Method
    settings: LoopSettings
    options: Options
    reading: Reading
    labels: Labels
    extra: ExtraTexts
    given: Given
    lengths: Lengths
    held: Held = "fp32"
    """How a base that stays frozen is held."""
    head_bias: bool = True
    """Whether the head has a bias."""
    beside: Sequence[Mapping[str, Any]] = ()
    """What others that were trained in the same way say of their tests."""

    @property
    def limit(self) -> int:
        """Tokens of a text."""
        return self.lengths.limit(self.base.config.context_length)

    def prepare(self, data: LabelledData, directory: Path) -> "ClassifierTraining":
        """A training on `data` in `directory`.

        Raises:
            UsageError: settings that do not fit the base or the data.
        """
        return ClassifierTraining(self, data, directory)


class ClassifierTraining(Training):
    name = "classify"
    task: Classification
    parts: Parts

    def __init__(self, recipe: Recipe, data: LabelledData, directory: Path) -> None:
        base, settings, options = recipe.base, recipe.settings, recipe.options
        self.recipe, self.data, self.directory = recipe, data, directory
        adapters = recipe.method.adapters(settings)
        self.tuning: Tuning = start_tuning(
            *(base, recipe.method.name, adapters, recipe.labels, settings, recipe.held),
            biased=recipe.head_bias,
            pooling=options.pooling,
        )
        self.extra = recipe.extra.beside(data)
        limit = recipe.limit
        examples = {"train": [*data.train, *self.extra], "val": data.val, "test": data.test}
        self.encoded: dict[str, Rows] = {
            name: encode(part, recipe.labels.names, base.tokenizer, limit)
            for name, part in examples.items()
        }
        copies = None
        if options.augment:
            texts = [example.text for example in examples["train"]]
            copies = Copies(texts, options.augmentation, settings.seed, base.tokenizer, limit)
        self.task = Classification(
            self.tuning,
            self.encoded["train"],
            self.encoded["val"],
            settings,
            options,
            copies=copies,
            cache=directory / "activations",
        )
        self.order = self.task.order()
        self.model = self.tuning.network.model
        self.parts = data.parts(self.extra).merged(recipe.known)
        self.folds: dict[str, Any] | None = None
        self.identity = {
            **identity(self.tuning, data.sources),
            **asdict(recipe.reading),
            "positive": recipe.labels.positive,
            "class_weights": options.class_weights,
            "pooling": options.pooling,
            "lm_weight": options.lm_weight,
            "augment": list(options.augment),
            "extra": recipe.extra.sources,
            **recipe.given.identity(),
            "max_length": limit,
            "cut": recipe.lengths.cut,
            "head_bias": recipe.head_bias,
        }

    @property
    def what(self) -> str:
        return f"{self.tuning.method} classifier"

    def report(self) -> None:
        """Say what is trained on."""
        data, labels = self.data, self.recipe.labels
        print(
            f"{data.rows} rows, {data.duplicates} repeated and dropped "
            f"({data.conflicts} of them with another label); "
            + ", ".join(f"{len(rows.tokens)} {name}" for name, rows in self.encoded.items())
        )
        if labels.positive is not None:
            print(f"precision, recall and F1 are those of {labels.positive!r}")
        elif len(labels.names) == 2:
            print(
                "neither label is rarer: precision, recall and F1 are means over both; --positive "
                "names the one sought"
            )
        if self.extra:
            print(f"{len(self.extra)} of the training texts are extra ones")
        if self.task.copies is not None and self.tuning.method in ("head", "last-block"):
            print("altered copies differ in every epoch, so none of their activations are kept")

    def fold(self, *, resume: bool) -> None:
        """Train for cross-validation: to calibrated weights, which nothing publishes."""
        self.tuning.freeze()
        run = Run(self.task, self.recipe.settings, self.directory, self.order)
        run.train(resume=resume, describe={**self.identity, "parts": self.parts.digest})
        self.tuning.settle()
        round_as_saved(self.tuning.trained)
        self.tuning.serve()
        self.calibrate()

    def calibrate(self) -> None:
        calibrate(self.tuning.network, self.encoded["val"], self.task.padding)

    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        """Of each part: all there is to know of the test part, and how well the others are
        fitted."""
        self.calibrate()
        network, parts, padding = self.tuning.network, self.encoded, self.task.padding
        metrics = {
            "train": {"accuracy": fitted(network, parts["train"], padding)},
            "validation": {
                "accuracy": accuracy(network, parts["val"], padding),
                "loss": progress.best_loss,
            },
            **measure(network, parts["test"], padding, self.data.test_files),
        }
        if self.folds:
            metrics["cross_validation"] = self.folds
        if self.recipe.beside:
            metrics["beside"] = list(self.recipe.beside)
        plot_confusion(metrics["test_natural"]["confusion"], directory / "confusion.png")
        options = self.recipe.options
        return {
            **card_fields(self.tuning),
            # Where activations are kept changes nothing.
            **{f.name: getattr(options, f.name) for f in fields(options) if f.name != "cache_mb"},
            "data": self._data_card(),
            "metrics": metrics,
        }

    def _data_card(self) -> dict[str, Any]:
        data, reading = self.data, self.recipe.reading
        return {
            "files": list(data.sources),
            "extra": {"files": self.recipe.extra.sources, "texts": len(self.extra)},
            "reading": asdict(reading),
            "rows": data.rows,
            "duplicates": data.duplicates,
            "conflicting_duplicates": data.conflicts,
            "split": {"rule": split_rule(reading, self.recipe.given), "counts": data.counts()},
            "max_length": self.recipe.limit,
            "truncated": {name: rows.truncated for name, rows in self.encoded.items()},
        }

    def rehearse_measuring(self) -> None:
        rehearse(self.tuning.network, self.encoded.values(), self.task.padding)

    def publish(self, out: Path, card: dict[str, Any]) -> Base | Adapter:
        return publish(out, self.tuning, "classify", card, self.parts)
