"""A base model from raw text."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.architecture import Architecture, preset
from model.checkpoint import Adapter, Base, save_base
from model.errors import UsageError
from model.tokenizer import Tokenizer
from training.data.splits import Parts
from training.data.tokens import SPLIT_RULE, TokenFiles, tokenize_files
from training.data.vocabulary import load_tokenizer
from training.loop import distributed
from training.loop import state as saved_state
from training.loop.distributed import first_goes_first
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.measure.language import heaviest, text_metrics
from training.measure.samples import PROMPTS, continuations
from training.measure.yardstick import Yardstick, yardstick
from training.objectives.next_tokens import Pretraining, new_model
from training.tasks.training import Job, Training, train
from training.tuning.card import text_splits
from training.tuning.methods import load_tunable

DEFAULTS: Mapping[str, Any] = {"epochs": 1.0, "sample_every": 500, "spike": 10.0}
"""Of the loop's settings."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Corpus files, and how they become windows of tokens. Each field is a flag of its name."""

    data: tuple[Path, ...]
    weights: tuple[float, ...] = ()
    """Share of each file in what is seen; by default their sizes."""
    context: int | None = None
    """Tokens of a window; by default what the network can hold."""
    stride: int | None = None
    """Tokens between windows; by default the context."""
    val_fraction: float | None = None
    """Of the documents, by default a tenth."""
    encoding: str | None = None
    """Of the files, if they are not in UTF-8."""
    token_cache: Path | None = None
    """A directory of tokens that runs share; by default they are kept in the run."""
    val: tuple[Path, ...] = ()
    """Files that validate, in place of a fraction of the documents."""

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UsageError(f"--val-fraction is {self.val_fraction}; it must be between 0 and 1")
        if self.val_fraction is not None and self.val:
            raise UsageError(
                f"--val-fraction {self.val_fraction} and --val {self.val[0]}: each says what "
                "validates; give one of them"
            )
        if self.weights and len(self.weights) != len(self.data):
            raise UsageError(
                f"--weights has {len(self.weights)} numbers; --data has {len(self.data)} files: "
                "there must be one number for each file"
            )
        for name in ("context", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} is {value}; it must be at least 1")

    @property
    def held_out(self) -> float:
        """The share of the documents of `data` that validate."""
        return 0.0 if self.val else 0.1 if self.val_fraction is None else self.val_fraction


def pretrain(
    corpus: Corpus,
    job: Job,
    *,
    base: Path | None = None,
    shape: str | None = None,
    tokenizer: str | None = None,
    settings: LoopSettings | None = None,
    eval_texts: Sequence[Path] = (),
    eval_blimp: Path | None = None,
) -> Base | Adapter | None:
    """Train a base on text and publish it.

    Args:
        base: weights to go on from; they bring their shape and tokenizer.
        shape: one of the presets; by default `small`.
        tokenizer: a file of `penwright-train tokenizer`, or `gpt2`, the default.
        eval_texts, eval_blimp: what the result is measured on beside its validation part.

    Returns:
        The checkpoint; None of a dry run.

    Raises:
        UsageError: a value is not allowed, or does not fit another.
        DataError: a file cannot be used.
    """
    settings = settings or LoopSettings(**DEFAULTS)
    cache = corpus.token_cache
    if cache is not None and cache.resolve().is_relative_to(job.out.resolve()):
        raise UsageError(
            f"--token-cache {cache} is or lies in --out {job.out}, which publishing replaces; name "
            "a directory beside it"
        )
    with job.directory() as directory:
        start = _start(base, shape, tokenizer)
        extra = yardstick(eval_texts, eval_blimp)  # a bad file costs no training
        words = start.tokenizer if start else load_tokenizer(tokenizer or "gpt2")
        config = start.config if start else _shape(shape, corpus.context, words)
        length = corpus.context or config.context_length
        if length > config.context_length:
            raise UsageError(
                f"--context is {length}; the base was made for {config.context_length}"
            )
        identity = {
            "context": length,
            "architecture": config.to_dict(),
            "stride": corpus.stride or length,
            "tokenizer": words.sha256,
            "val_fraction": corpus.held_out,
            "weights": list(corpus.weights) or None,
            "base": start.weights if start else None,
            "base_card": start.id if start else None,
            "encoding": corpus.encoding,
        }
        # Before other tokens take the place of those in the directory of the run.
        expected = _saved_data(directory, identity) if job.resume else None
        for path in (*corpus.val, *corpus.data):
            if distributed.size() > 1 and path.exists() and not path.is_file():
                flag = "--data" if path in corpus.data else "--val"
                raise UsageError(
                    f"{flag} {path} is no regular file, and one process alone could read it; "
                    "write it to a file first"
                )
        with first_goes_first():
            files = tokenize_files(
                corpus.data,
                words,
                directory / "data",
                corpus.held_out,
                corpus.encoding,
                val=corpus.val,
                expected=expected,
                cache=None if job.dry_run else corpus.token_cache,
            )
        _check_held_out(start, corpus, files)
        model = new_model(config, settings)
        if start:
            model.load_state_dict(start.model.state_dict())
        task = Pretraining(
            model, words, files, settings, length, corpus.stride or length, corpus.weights or None
        )
        identity["data"] = list(files.sources)
        identity["val"] = list(files.val_sources)
        return train(TextTraining(task, corpus, start, extra, identity), settings, job, directory)


class TextTraining(Training):
    name = "generate"
    task: Pretraining

    def __init__(
        self,
        task: Pretraining,
        corpus: Corpus,
        start: Base | None,
        extra: Yardstick,
        identity: Mapping[str, Any],
    ) -> None:
        self.task, self.model, self.order, self.identity = task, task.trained, task.order, identity
        self.corpus, self.start, self.extra = corpus, start, extra

    @property
    def what(self) -> str:
        return f"base of {self.model.parameter_count():,} parameters"

    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        files: TokenFiles = self.task.files
        tokenizer = self.task.tokenizer
        validation = text_metrics(self.model, files.val, tokenizer)
        metrics = {"validation": validation, **self.extra.measure(self.model, tokenizer)}
        return {
            "parameters": self.model.parameter_count(),
            **_origin(self.start),
            "data": {
                "files": list(files.sources),
                "weights": list(self.corpus.weights) or None,
                "split": {
                    "rule": SPLIT_RULE,
                    "val_fraction": self.corpus.held_out,
                    "cut": files.cut,
                    "files": list(files.val_sources),
                },
                "train_tokens": len(files.train),
                "val_tokens": len(files.val),
            },
            "measured_on": list(self.extra.sources),
            "metrics": metrics,
            "samples": continuations(self.model.to("cpu"), tokenizer, PROMPTS),
        }

    def rehearse_measuring(self) -> None:
        text_metrics(self.model, heaviest(self.task.files.val, self.model), self.task.tokenizer)
        continuations(self.model.to("cpu"), self.task.tokenizer, PROMPTS)

    def publish(self, out: Path, card: dict[str, Any]) -> Base:
        # What a base has learnt as a follower or a classifier, it still knows.
        known = Parts() if self.start is None else Parts.known(self.start.path)
        parts = known.content() if known.of or not known.complete else None
        return save_base(out, self.model, self.task.tokenizer, card=card, parts=parts)


def _start(base: Path | None, shape: str | None, tokenizer: str | None) -> Base | None:
    """The checkpoint of `--base`."""
    if base is None:
        return None
    for name, value in (("preset", shape), ("tokenizer", tokenizer)):
        if value is not None:
            raise UsageError(f"--{name} is {value}; --base brings its own, so leave it out")
    return load_tunable(base)


def _shape(shape: str | None, context: int | None, tokenizer: Tokenizer) -> Architecture:
    changes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    if context:
        changes["context_length"] = context
    return dataclasses.replace(preset(shape or "small"), **changes)


def _origin(base: Base | None) -> dict[str, Any]:
    """For the card: the weights that the run began with, and what they had been trained on."""
    if base is None:
        return {}
    names = ("tokens", "data", "text_splits", "origin")
    before = {name: base.card.get(name) for name in names}
    return {"origin": {"sha256": base.id, **{k: v for k, v in before.items() if v is not None}}}


def _check_held_out(base: Base | None, corpus: Corpus, files: TokenFiles) -> None:
    """
    Raises:
        UsageError: documents that the base was trained on would be validated on.
    """
    hashes = {source["sha256"] for source in files.sources}
    for split in text_splits(base.card) if base else []:
        for source in files.val_sources:
            if source["sha256"] in split["files"]:
                raise UsageError(
                    f"--val {source['file']}: --base was trained on it; name text that it has not "
                    "learnt"
                )
        if hashes & set(split["files"]) and corpus.held_out > split["val_fraction"]:
            raise UsageError(
                f"--val-fraction is {corpus.held_out}; --base was trained on some of --data "
                f"and left out {split['val_fraction']} of it: give at most that, or documents that "
                "it has learnt would be validated on"
            )


def _saved_data(directory: Path, identity: dict[str, Any]) -> list[str]:
    """The SHA-256 of each file of the run that is resumed, which has the same settings."""
    state = saved_state.load(directory)
    saved_state.check_same(state, identity)
    both = [*state["identity"].get("val", []), *state["identity"]["data"]]
    return [source["sha256"] for source in both]
