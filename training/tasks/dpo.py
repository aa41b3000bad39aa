"""A model that answers as people prefer it to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base, is_adapter, load_adapter
from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.frozen import Held
from model.lora import LoRASettings
from model.prompts import Template
from training.data.given import NONE_GIVEN, Given
from training.data.lengths import Lengths
from training.data.preferences import PreferenceData, load_preferences
from training.data.splits import Parts
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.measure.answers import (
    Response,
    rehearse,
    respond,
    response_metrics,
    responses_file,
)
from training.measure.intervals import proportion
from training.objectives.preferences import (
    Objective,
    PreferencePairs,
    PreferenceTuning,
    encode_parts,
    figures,
    log_probs,
)
from training.tasks.training import Job, Training, train
from training.tuning.methods import Method, Tuning, load_tunable, start_tuning
from training.tuning.network import Network
from training.tuning.publishing import card_fields, identity, keep_apart, publish
from training.tuning.template import AUTO, template_of

METHODS = ("lora", "full")
DEFAULTS: Mapping[str, Any] = {
    "epochs": 1.0,
    "lr": 5e-5,
    "warmup": 10,
    "eval_every": 20,
    "eval_batches": 0,
    "weight_decay": 0.01,
    "warmup_gives_way": True,
}
"""Of the loop's settings."""


def dpo(
    data: Sequence[Path],
    base: Path,
    job: Job,
    *,
    adapter: Path | None = None,
    objective: Objective | None = None,
    method: Method | None = None,
    settings: LoopSettings | None = None,
    encoding: str | None = None,
    template: str = AUTO,
    lengths: Lengths | None = None,
    given: Given = NONE_GIVEN,
) -> Base | Adapter | None:
    """Tune a model by pairs of preferred and rejected answers, and publish the result.

    Args:
        base: what is tuned, and the reference; an instruction follower of its own, too.
        adapter: of the base, to start from; it is the reference as well, and keeps its shape.
        encoding: of the files, if they are not in UTF-8.
        template: the name of the one in which conversations are written; with an adapter its own.
        given: files that are set apart to validate and to test.

    Returns:
        The checkpoint; None of a dry run.

    Raises:
        UsageError: a value is not allowed, or does not fit another.
        DataError: a file cannot be used.
    """
    settings, method = settings or LoopSettings(**DEFAULTS), method or Method()
    objective = objective or Objective(0.1)
    keep_apart(job.out, "--base", base)
    method.check(METHODS, settings)
    shape = None if adapter is not None else method.adapters(settings)
    if adapter is not None:
        keep_apart(job.out, "--adapter", adapter)
        _check_adapter(adapter, method)
    with job.directory() as directory:
        known = Parts.known(base, *([] if adapter is None else [adapter]))
        pairs = load_preferences(data, given=given, known=known, encoding=encoding)
        held = method.held(settings, directory if job.resume else None)
        loaded = load_tunable(base, held)
        before = None if adapter is None else _load_adapter(adapter, loaded)
        form = _template(loaded, before, template)
        lengths = lengths or Lengths()
        parts = encode_parts(pairs, loaded, data, form, lengths)
        tuning, reference = start(loaded, before, method.name, shape, settings, held)
        training = PreferenceTraining(
            tuning, reference, pairs, parts, objective, settings, before, form
        )
        limit = lengths.limit(loaded.config.context_length)
        training.identity = {
            **given.identity(),
            **training.identity,
            "max_length": limit,
            "cut": lengths.cut,
        }
        training.parts = training.parts.merged(known)
        return train(training, settings, job, directory)


class PreferenceTraining(Training):
    name = "dpo"
    identity: dict[str, Any]
    tuning: Tuning
    parts: Parts

    def __init__(
        self,
        tuning: Tuning,
        reference: Network,
        data: PreferenceData,
        parts: Mapping[str, PreferencePairs],
        objective: Objective,
        settings: LoopSettings,
        adapter: Adapter | None,
        template: Template,
    ) -> None:
        self.tuning, self.reference, self.template = tuning, reference, template
        self.data, self.encoded, self.objective = data, parts, objective
        self.adapter = adapter
        self.task = PreferenceTuning(
            tuning, reference, parts["train"], parts["val"], objective, settings, template
        )
        self.model = tuning.network.model
        self.identity = {
            **identity(tuning, data.sources),
            **asdict(objective),
            "adapter": None if adapter is None else adapter.id,
            "template": template.settings(),
        }
        self.parts = data.parts()

    @property
    def what(self) -> str:
        return f"{self.tuning.method} instruction follower"

    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        metrics, responses = self._measured()
        write_file(directory / "responses.json", responses_file(responses))
        adapter, data, parts = self.adapter, self.data, self.encoded
        return {
            **card_fields(self.tuning),
            **asdict(self.objective),
            "adapter": adapter and {"name": adapter.path.resolve().name, "sha256": adapter.id},
            "template": {"name": self.template.name, "version": self.template.version},
            "max_length": self.identity["max_length"],
            "data": {
                "files": list(data.sources),
                "rows": data.rows,
                "duplicates": data.duplicates,
                "equal": data.equal,
                "split": {
                    "rule": data.split_rule,
                    "counts": {name: len(part) for name, part in parts.items()},
                },
                "too_long": {name: len(part.too_long) for name, part in parts.items()},
            },
            "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
        }

    def _measured(self) -> tuple[dict[str, Any], list[Response]]:
        """The metrics of the test part, and its responses. Preferences say nothing of how good the
        answers are that a network writes itself, so these are measured too, before and after."""
        base, test = self.tuning.base, self.encoded["test"]
        questions = [row.question for row in test.rows]
        before, after = (
            respond(replace(base, model=each.model), each.lora, questions, self.template)
            for each in (self.reference, self.tuning.network)
        )
        padding = base.tokenizer.end_token
        figures = measure(self.tuning.network, self.reference, test, self.objective, padding)
        metrics = {
            "test": figures,
            "answers_before": response_metrics(before),
            "answers": response_metrics(after),
        }
        return metrics, after

    def rehearse_measuring(self) -> None:
        base, test = self.tuning.base, self.encoded["test"]
        questions = [row.question for row in test.rows]
        for each in (self.reference, self.tuning.network):
            rehearse(replace(base, model=each.model), each.lora, questions, self.template)
            log_probs(each, test.longest(), base.tokenizer.end_token)

    def publish(self, out: Path, card: dict[str, Any]) -> Base | Adapter:
        return publish(out, self.tuning, "instruct", card, self.parts, self.template)


def start(
    base: Base,
    adapter: Adapter | None,
    method: str,
    shape: LoRASettings | None,
    settings: LoopSettings,
    held: Held = "fp32",
) -> tuple[Tuning, Network]:
    """What is tuned, and the frozen reference that it starts as.

    Args:
        shape: of new adapters; None is that of `adapter`.
        held: how a base that stays frozen is held.
    """
    if shape is None:
        assert adapter is not None
        shape = replace(adapter.lora.settings, dropout=settings.dropout)
    tuning = start_tuning(base, method, shape, None, settings, held)
    frozen = Network(base.model).to(settings.torch_device).model
    if tuning.network.lora is not None:
        frozen = tuning.network.model  # the same weights: they are held once
    if adapter is None:
        return tuning, Network(frozen)
    before = adapter.lora.to(settings.torch_device)
    own = tuning.network.lora
    if own is not None:
        own.settle(frozen)
        own.load_state_dict(before.state_dict())
        own.learn(frozen)
    else:
        before.merge_into(tuning.network.model)
    return tuning, Network(frozen, before)


def _template(base: Base, adapter: Adapter | None, name: str) -> Template:
    """
    Raises:
        UsageError: there is no such template, or the adapter was trained with another.
    """
    if adapter is None or adapter.template is None:
        return template_of(base, name)
    if name not in (AUTO, adapter.template.name):
        raise UsageError(
            f"--template is {name!r}, but --adapter was trained with {adapter.template.name}"
        )
    return adapter.template


def _check_adapter(adapter: Path, method: Method) -> None:
    """
    Raises:
        UsageError: it is none, or its shape is asked for.
    """
    for name in ("rank", "alpha", "scaling"):
        value = getattr(method, name)
        if value is not None:
            raise UsageError(_OWN_SHAPE.format(f"lora-{name}"))
    if method.targets:
        raise UsageError(_OWN_SHAPE.format("lora-targets"))
    if method.dora:
        raise UsageError(_OWN_SHAPE.format("dora"))
    if not is_adapter(adapter):
        raise UsageError(
            f"--adapter {adapter} is no adapter; give a checkpoint with weights of its own "
            "as --base"
        )


_OWN_SHAPE = "--{} is given, but with --adapter the adapter's own shape is kept"


def _load_adapter(path: Path, base: Base) -> Adapter:
    """
    Raises:
        UsageError: it does not follow instructions.
        CheckpointError: it cannot be loaded, or belongs to another base.
    """
    adapter = load_adapter(path, base)
    if adapter.task != "instruct":
        raise UsageError(
            f"--adapter {path} was made by {adapter.task}; it must be one that follows instructions"
        )
    return adapter


def measure(
    network: Network, reference: Network, pairs: PreferencePairs, objective: Objective, padding: int
) -> dict[str, Any]:
    """The figures of all pairs, in fp32; the accuracy with its interval."""
    policy, before = (
        log_probs(each, pairs, padding).flatten().cpu() for each in (network, reference)
    )
    chosen, rejected = objective.rewards(policy, before)
    return {
        "n": len(pairs),
        **figures(objective, policy, before),
        "accuracy": proportion(int((chosen > rejected).sum()), len(pairs)),
    }
