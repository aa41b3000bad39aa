"""The measurement of one published checkpoint, whatever its task.

What is measured follows from the checkpoint: a classifier and an instruction follower on those rows
of the data that neither trained nor validated it, as it knows itself, or on all; a base on all of
the given text, and BLiMP.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from model.checkpoint import Base, adapter_base_path, is_adapter, load_adapter, load_base
from model.checkpoint.files import read_card
from model.errors import DataError, UsageError
from model.prompts import Alpaca, Template
from training.data.conversations import Instruction, read_instructions
from training.data.documents import text_hash
from training.data.files import read_file
from training.data.labelled import Reading
from training.data.labelled_parts import read_distinct
from training.data.splits import Parts
from training.measure import classifiers
from training.measure.classifier_metrics import classifier_curves
from training.measure.samples import continuations
from training.measure.yardstick import Yardstick
from training.objectives import responses
from training.objectives.conversations import encode as encode_rows
from training.objectives.labels import encode as encode_texts
from training.objectives.labels import head_of
from training.tuning.network import Network

_SHOWN = 20  # samples in a report

INTERVALS = "at 95%: of shares Wilson's, of other figures a percentile bootstrap over the examples"


Row = TypeVar("Row")


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
    parts: Parts
    """Which rows trained it, and its base."""

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
    """Of a classifier; see `training.measure.classifier_metrics`."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows to look at, under a title."""


def load(
    path: Path, base_path: Path | None, device: torch.device, parts_of: Path | None = None
) -> Loaded:
    """Load and verify a checkpoint, in fp32.

    Args:
        base_path: of an adapter, if it has moved.
        parts_of: another checkpoint, whose rows are to be left out as well: both are then measured
            on the same ones.

    Raises:
        UsageError: `base_path` is given for one that is no adapter.
        CheckpointError: it cannot be loaded.
    """
    others = [path]
    if parts_of is not None:
        read_card(parts_of, ())
        others += [parts_of, *([adapter_base_path(parts_of)] if is_adapter(parts_of) else [])]
    if not is_adapter(path):
        if base_path is not None:
            raise UsageError(f"--base is for adapters; {path} has weights of its own")
        base = load_base(path)
        network = Network(base.model, None, base.head).to(device)
        parts = Parts.known(*others)
        return Loaded(path, base.id, base.task, base, network, base.card, base.template, parts)
    base = load_base(base_path or adapter_base_path(path))
    adapter = load_adapter(path, base)
    network = Network(base.model, adapter.lora, adapter.head).to(device)
    card, template, parts = adapter.card, adapter.template, Parts.known(base.path, *others)
    return Loaded(path, adapter.id, adapter.task, base, network, card, template, parts)


def measured_rows(
    loaded: Loaded,
    rows: Sequence[Row],
    texts: Callable[[Row], Sequence[str]],
    *,
    whole: bool,
    names: str,
) -> tuple[list[Row], str]:
    """The rows to measure a checkpoint on, and in words which they are.

    Args:
        texts: of a row, by which the checkpoint knows it.
        whole: take those too that trained or validated it.
        names: of the files, for errors.

    Raises:
        UsageError: the checkpoint was trained here and does not know its rows.
        DataError: all of the rows trained or validated it.
    """
    parts = loaded.parts
    fresh = [row for row in rows if not parts.gives_away(*texts(row))]
    seen = len(rows) - len(fresh)
    known = "trained the checkpoint or validated it"
    if parts.near:
        known += ", or are near copies of what did"
    if whole:
        return list(rows), f"all {len(rows)} distinct rows, of which {seen} {known}"
    if not parts.complete:
        raise UsageError(
            f"{loaded.path} is, or comes from, a checkpoint that was made before checkpoints knew "
            "which rows trained them; it can only be measured on all rows, those that trained it "
            "among them (evaluate --all, judge --rows all)"
        )
    if not parts.of:
        return list(rows), f"all {len(rows)} distinct rows: none is known to have trained it"
    kept = [row for row in fresh if parts.part(texts(row)[0]) != "unused"]
    if not kept:
        raise DataError(
            f"{names}: no row is left to measure on: {seen} of {len(rows)} {known}; evaluate --all "
            "and judge --rows all measure on them"
        )
    new = sum(parts.part(texts(row)[0]) is None for row in kept)
    unused = len(fresh) - len(kept)
    return kept, (
        f"{len(kept)} rows: {len(kept) - new} of its test part and {new} that it has not met; left "
        f"out are {seen} that {known}" + f", and {unused} that its training left out" * bool(unused)
    )


def evaluate_classifier(
    loaded: Loaded, paths: Sequence[Path], reading: Reading, *, whole: bool = False
) -> Evaluation:
    """On the rows that did not train it, or on the `whole`. A label may be missing there.

    Raises:
        UsageError, DataError: see `measured_rows`; or a file cannot be used, or has a label that
            the checkpoint does not know.
    """
    labels = head_of(loaded.network).labels
    distinct = read_distinct(paths, reading)
    unknown = sorted(distinct.entries.keys() - set(labels.names))
    if unknown:
        raise DataError(
            f"{distinct.names}: has the labels {', '.join(distinct.entries)}; "
            f"the checkpoint knows {', '.join(labels.names)}"
        )
    everything = [entry.example for entries in distinct.entries.values() for entry in entries]
    test, part = measured_rows(
        loaded, everything, lambda row: [row.text], whole=whole, names=distinct.names
    )
    print(part)
    tokenizer, limit = loaded.base.tokenizer, _limit(loaded)
    rows = encode_texts(test, labels.names, tokenizer, limit)
    if rows.truncated:
        print(
            f"{rows.truncated} texts are longer than {limit:,} tokens, the context or what the "
            "training cut them to, and cut at their end",
            file=sys.stderr,
        )
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
        {"rows": part, "intervals": INTERVALS},
        {"test_natural": classifier_curves(labels, truth, probabilities)},
        {"texts with the wrong label, the most confident first": wrong[:_SHOWN]},
    )


def _limit(loaded: Loaded) -> int:
    """Tokens of a text: the context, or fewer where the training cut its texts, for the numbers on
    its card are of those."""
    context = loaded.base.config.context_length
    data = loaded.card.get("data") or {}
    cut = any((data.get("truncated") or {}).values())
    return min(context, int(data["max_length"])) if cut and "max_length" in data else context


def evaluate_instructions(
    loaded: Loaded,
    paths: Sequence[Path],
    tests: Sequence[Path] = (),
    *,
    whole: bool = False,
    encoding: str | None = None,
) -> Evaluation:
    """On the rows that did not train it, or on the `whole`; an adapter beside its base.

    Args:
        tests: further files.

    Raises:
        UsageError, DataError: see `instruction_rows`; or no row fits the context.
    """
    base, network, template = loaded.base, loaded.network, loaded.template or Alpaca()
    rows, sources, part = instruction_rows(loaded, [*paths, *tests], whole=whole, encoding=encoding)
    context = base.config.context_length
    test = encode_rows(rows, base.tokenizer, context, template)
    if not test.found:
        names = ", ".join(map(str, [*paths, *tests]))
        raise DataError(f"{names}: no row fits the context of {context} tokens")
    print(part)
    if test.too_long:
        print(
            f"{len(test.too_long)} rows are left out: with prompt and response they are longer "
            f"than the context of {context} tokens",
            file=sys.stderr,
        )
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
        "rows": part,
        "answers": "greedy",
        "intervals": INTERVALS,
    }
    return Evaluation(metrics, sources, methods, samples={"answers": shown})


def instruction_rows(
    loaded: Loaded, paths: Sequence[Path], *, whole: bool = False, encoding: str | None = None
) -> tuple[list[Instruction], list[dict[str, Any]], str]:
    """The distinct instructions of some files to measure a checkpoint on, the files, and in words
    which rows they are.

    Raises:
        UsageError, DataError: see `measured_rows`; or a file cannot be used.
    """
    distinct: dict[str, Instruction] = {}
    sources: list[dict[str, Any]] = []
    for path in dict.fromkeys(paths):
        file = read_file(path, encoding)
        rows = list(read_instructions(file))
        for row in rows:
            if not row.needs_a_passage:
                distinct.setdefault(text_hash(row.identity), row)
        sources.append({**file.source, "rows": len(rows)})
    # Of all rows the order is that of the files; a test part's has ever been that of the hashes.
    chosen = [distinct[key] for key in (distinct if whole else sorted(distinct))]
    kept, part = measured_rows(
        loaded,
        chosen,
        lambda row: [row.identity, row.group],
        whole=whole,
        names=", ".join(map(str, paths)),
    )
    return kept, sources, part


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
