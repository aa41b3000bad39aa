"""The measurement of one published checkpoint, whatever its task.

What is measured follows from the checkpoint: a classifier and an instruction follower on the test
part of the data, which is derived from the texts again, or on all of it; a base on all of the given
text, and BLiMP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoint import Base, adapter_base_path, is_adapter, load_adapter, load_base
from model.errors import DataError, UsageError
from model.prompts import Template
from training.data.conversations import Instruction, load_instructions, read_instructions
from training.data.documents import text_hash
from training.data.files import read_file
from training.data.labelled import read_distinct, split
from training.data.labelled_files import Reading
from training.measure import classifiers
from training.measure.curves import classifier_curves
from training.measure.samples import continuations
from training.measure.yardstick import Yardstick
from training.objectives import labels as texts
from training.objectives import responses
from training.objectives.labels import head_of
from training.tuning.network import Network

_SHOWN = 20  # samples in a report

PART = "the test part of the data, derived from the texts again"
WHOLE = "all distinct rows of the data; that none was trained on is for the caller to know"
INTERVALS = "at 95%: of shares Wilson's, of other figures a percentile bootstrap over the examples"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, ready to be measured."""

    path: Path
    id: str
    task: str
    base: Base
    """Itself, or the base of the adapter that it is."""
    network: Network
    card: dict[str, Any]
    template: Template | None
    """How it reads instructions, if it was trained to."""

    def facts(self) -> dict[str, Any]:
        """What it is, for reports."""
        network = self.network
        parts = [part for part in (network.lora, network.head) if part is not None]
        adapter = network.lora is not None
        facts: dict[str, Any] = {
            "name": self.path.resolve().name,
            "id": self.id,
            "task": self.task,
            "kind": "adapter" if adapter else "base",
            "parameters": network.model.parameter_count(),
            "context_length": self.base.config.context_length,
        }
        if adapter:
            facts["adapter_parameters"] = sum(p.numel() for m in parts for p in m.parameters())
            facts["base"] = {"name": self.base.path.resolve().name, "id": self.base.id}
        return facts


@dataclass(frozen=True)
class Evaluation:
    """What was found."""

    metrics: dict[str, Any]
    sources: Sequence[dict[str, Any]] = ()
    """Name and SHA-256 of each data file."""
    methods: dict[str, str] = field(default_factory=dict)
    """How the numbers came about."""
    curves: dict[str, Any] = field(default_factory=dict)
    """Of a classifier; see `training.measure.curves`."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows to look at, under a title."""


def load(path: Path, base_path: Path | None, device: torch.device) -> Loaded:
    """Load and verify a checkpoint, in fp32.

    Raises:
        UsageError: `base_path` is given for one that is no adapter.
        CheckpointError: it cannot be loaded.
    """
    if not is_adapter(path):
        if base_path is not None:
            raise UsageError(f"--base is for adapters; {path} has weights of its own")
        base = load_base(path)
        network = Network(base.model, None, base.head).to(device)
        return Loaded(path, base.id, base.task, base, network, base.card, base.template)
    base = load_base(base_path or adapter_base_path(path))
    adapter = load_adapter(path, base)
    network = Network(base.model, adapter.lora, adapter.head).to(device)
    return Loaded(path, adapter.id, adapter.task, base, network, adapter.card, adapter.template)


def evaluate_classifier(
    loaded: Loaded, paths: Sequence[Path], reading: Reading, *, whole: bool = False
) -> Evaluation:
    """On the test part of the files, or on the `whole`.

    Raises:
        DataError: a file cannot be used, or has other labels than the checkpoint knows.
    """
    labels = head_of(loaded.network).labels
    distinct = read_distinct(paths, reading)
    if set(distinct.entries) != set(labels.names):
        raise DataError(
            f"{distinct.names}: has the labels {', '.join(distinct.entries)}; "
            f"the checkpoint knows {', '.join(labels.names)}"
        )
    everything = [entry.example for entries in distinct.entries.values() for entry in entries]
    test = everything if whole else split(distinct).test
    tokenizer, context = loaded.base.tokenizer, loaded.base.config.context_length
    rows = texts.encode(test, labels.names, tokenizer, context)
    truth = np.array(rows.targets)
    probabilities = classifiers.all_probabilities(loaded.network, rows, tokenizer.end_token)
    decided = [labels.decide(list(row)) for row in probabilities]
    wrong: list[dict[str, Any]] = [
        {
            "text": example.text,
            "label": example.label,
            "said": said,
            "probability": float(row[labels.names.index(said)]),
        }
        for example, said, row in zip(test, decided, probabilities, strict=True)
        if said != example.label
    ]
    wrong.sort(key=lambda row: -row["probability"])
    return Evaluation(
        classifiers.part_metrics(labels, truth, probabilities),
        distinct.sources,
        {"test part": WHOLE if whole else PART, "intervals": INTERVALS},
        {"test_natural": classifier_curves(labels, truth, probabilities)},
        {"texts with the wrong label, the most confident first": wrong[:_SHOWN]},
    )


def evaluate_instructions(
    loaded: Loaded,
    paths: Sequence[Path],
    tests: Sequence[Path] = (),
    *,
    whole: bool = False,
    encoding: str | None = None,
) -> Evaluation:
    """On the test part of the files, or on the `whole`; an adapter beside its base.

    Args:
        tests: of `--test`, as in the training.

    Raises:
        DataError: a file cannot be used, or nothing of its test part fits the context.
    """
    base, network, template = loaded.base, loaded.network, loaded.template
    if whole:
        rows, sources = _all_instructions(paths, encoding)
        test = responses.encode(rows, base.tokenizer, base.config.context_length, template)
        if not test.pairs:
            names = ", ".join(map(str, paths))
            raise DataError(f"{names}: no row fits the context of {base.config.context_length}")
    else:
        data = load_instructions(paths, test=tests, encoding=encoding)
        parts = responses.encode_parts(data, base, paths, template)
        test, sources = parts["test"], list(data.sources)
    # An adapter is compared with its base; a checkpoint of its own does not carry one.
    untuned = None if network.lora is None else Network(network.model)
    metrics, found = responses.measure(base, network, test, untuned, template)
    shown = [
        {
            "instruction": response.instruction,
            "input": response.input,
            "expected": response.output,
            "response": response.response,
        }
        for response in found[:_SHOWN]
    ]
    methods = {
        "test part": WHOLE if whole else PART,
        "answers": "greedy",
        "intervals": INTERVALS,
    }
    return Evaluation(metrics, sources, methods, samples={"answers": shown})


def _all_instructions(
    paths: Sequence[Path], encoding: str | None
) -> tuple[list[Instruction], list[dict[str, Any]]]:
    """The distinct rows of some files that can be answered, and the files."""
    distinct: dict[str, Instruction] = {}
    sources: list[dict[str, Any]] = []
    for path in paths:
        file = read_file(path, encoding)
        rows = list(read_instructions(file))
        for row in rows:
            if not row.needs_a_passage:
                distinct.setdefault(text_hash(row.identity), row)
        sources.append({**file.source, "rows": len(rows)})
    return list(distinct.values()), sources


def evaluate_base(loaded: Loaded, yardstick: Yardstick, prompts: Sequence[str]) -> Evaluation:
    """On texts and BLiMP, with continuations of the prompts.

    Raises:
        DataError: a pair does not fit the context.
    """
    model, tokenizer = loaded.network.model, loaded.base.tokenizer
    metrics = yardstick.measure(model, tokenizer)
    texts = continuations(loaded.base.model, tokenizer, prompts, max_new_tokens=96)
    samples = [
        {"prompt": prompt, "continuation": text[len(prompt) :]}
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    methods = {**yardstick.methods(), "intervals": INTERVALS}
    title = "continuations (temperature 0.7, top-p 0.95, fixed seed)"
    return Evaluation(metrics, yardstick.sources, methods, samples={title: samples})
