"""`penwright-train pretrain`: a base model from raw text.

    penwright-train pretrain --data book.txt --tokenizer mine.tiktoken --epochs 10 --out mine

The loss is the mean cross-entropy of the next token over every position of every window.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architecture import Architecture, preset
from model.checkpoint import Base, save_base
from model.checkpoint.files import check_target
from model.errors import UsageError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.commands.tokenizer import load_tokenizer
from training.data.documents import SPLIT_RULE, TokenFiles, Windows, file_sha256, tokenize_files
from training.data.order import MixedOrder
from training.loop import state as saved_state
from training.loop.distributed import first_goes_first
from training.loop.dry_run import add_argument as add_dry_run
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.prepare import prepare
from training.loop.run import Batch, Run
from training.loop.settings import LoopSettings
from training.measure import yardstick
from training.measure.language import text_metrics
from training.measure.samples import continuations
from training.objectives.cross_entropy import token_loss
from training.report.tables import print_metrics
from training.tuning.card import run_fields
from training.tuning.methods import load_tunable, round_as_saved, run_directory

_PROMPTS = ("Once upon a time", "The king looked at", "The city is located in")
"""What samples continue."""


class Pretraining:
    """Next-token prediction on windows of text. A `training.loop.run.Task`.

    Args:
        length: tokens of a window.
        weights: of each file in the mixture, above 0; without, every window comes once an epoch.
    """

    name = "pretrain"
    keep_best = False
    lengths = None

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        files: TokenFiles,
        settings: LoopSettings,
        length: int,
        stride: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.trained = model
        self.tokenizer = tokenizer
        self.files = files
        self.settings = settings
        self.device = settings.torch_device
        self.train = Windows(files.train, length, stride, files.bounds if weights else None)
        self.order = MixedOrder(self.train.counts, weights, settings.seed) if weights else None
        if not len(self.train):
            raise UsageError(
                f"--context is {length}; the training part has only {len(files.train)} tokens"
            )
        # A short validation part is one window of what there is.
        val_length = min(length, len(files.val) - 1)
        if val_length < 1:
            raise UsageError("the validation part has no second token; raise --val-fraction")
        self.val = Windows(files.val, val_length, val_length)
        self.examples = len(self.train)
        self.tokens_per_example = length

    def batch(self, examples: Sequence[int]) -> Batch:
        return self._batch(self.train, examples)

    def _batch(self, windows: Windows, examples: Sequence[int]) -> Batch:
        inputs, targets = windows.batch(examples)
        lengths = torch.full((len(examples),), windows.length)
        return Batch(
            inputs.to(self.device), targets.to(self.device), lengths, count=targets.numel()
        )

    def loss(self, batch: Batch) -> Tensor:
        total, _ = token_loss(self.trained, self.trained(batch.inputs), batch.targets)
        return total

    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity per token on windows spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        chosen = [index * len(self.val) // wanted for index in range(wanted)]
        total, count = 0.0, 0
        for start in range(0, wanted, size):
            batch = self._batch(self.val, chosen[start : start + size])
            total += self.loss(batch).item()
            count += batch.count
        loss = total / count
        return {"val_loss": loss, "val_perplexity": math.exp(min(loss, 700.0))}

    def samples(self) -> list[str]:
        return continuations(self.trained, self.tokenizer, _PROMPTS)

    def measure(self) -> dict[str, Any]:
        """Loss per token, perplexity and bits per byte over the whole validation part."""
        return {"validation": text_metrics(self.trained, self.files.val, self.tokenizer)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="text files, .xz too")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        help="share of each data file in what is seen, in their order (default: their sizes)",
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument("--run", type=Path, help="directory of the run (default: OUT.run)")
    parser.add_argument("--preset", help="shape of the network (default small)")
    parser.add_argument(
        "--context",
        type=int,
        help="context length, if not the preset's; with --base, of the windows alone",
    )
    parser.add_argument(
        "--base", type=Path, help="go on from these weights; they bring their shape and tokenizer"
    )
    parser.add_argument("--stride", type=int, help="tokens between windows (default: context)")
    parser.add_argument("--tokenizer", help="a tokenizer file, or gpt2 (default)")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="validation part (0.1)")
    parser.add_argument(
        "--licence", action="append", default=[], help="source and licence of data, for the card"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    add_dry_run(parser)
    yardstick.add_arguments(parser)
    LoopSettings.add_arguments(parser, epochs=1.0, sample_every=500, spike=10.0)


@leaves_nothing
def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    check_target(args.out)
    if not 0 < args.val_fraction < 1:
        raise UsageError(f"--val-fraction is {args.val_fraction}; it must be between 0 and 1")
    if args.weights and len(args.weights) != len(args.data):
        raise UsageError(
            f"--weights has {len(args.weights)} numbers; --data has {len(args.data)} files: "
            "there must be one number for each file"
        )
    for name in ("context", "stride"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}; it must be at least 1")
    base = _start(args)
    extra = yardstick.yardstick(args.eval_text, args.eval_blimp)  # a bad file costs no training
    tokenizer = base.tokenizer if base else load_tokenizer(args.tokenizer or "gpt2")
    config = base.config if base else _shape(args, tokenizer)
    length = args.context or config.context_length
    if length > config.context_length:
        raise UsageError(f"--context is {length}; the base was made for {config.context_length}")
    stride = args.stride or length
    directory = run_directory(args)
    identity = {
        "context": length,
        "architecture": config.to_dict(),
        "stride": stride,
        "tokenizer": tokenizer.sha256,
        "val_fraction": args.val_fraction,
        "weights": args.weights,
        "base": base.id if base else None,
    }
    if args.resume:
        _check_resume(directory, identity, args.data)
    with first_goes_first():
        files = tokenize_files(args.data, tokenizer, directory / "data", args.val_fraction)
    model = new_model(config, settings)
    if base:
        model.load_state_dict(base.model.state_dict())
    task = Pretraining(model, tokenizer, files, settings, length, stride, args.weights)
    loop = Run(task, settings, directory, task.order)
    if args.dry_run:
        dry_run(loop, model)
        return
    progress = loop.train(
        resume=args.resume,
        describe={**identity, "data": list(files.sources)},
    )
    round_as_saved(model)
    metrics = {**task.measure(), **extra.measure(model, tokenizer)}
    card = {
        "task": "generate",
        **run_fields(args, settings, progress),
        "parameters": model.parameter_count(),
        **_origin(base),
        "data": {
            "files": list(files.sources),
            "weights": args.weights,
            "split": {"rule": SPLIT_RULE, "val_fraction": args.val_fraction},
            "train_tokens": len(files.train),
            "val_tokens": len(files.val),
        },
        "measured_on": list(extra.sources),
        "metrics": metrics,
        "samples": continuations(model.to("cpu"), tokenizer, _PROMPTS),
    }
    saved = save_base(args.out, model, tokenizer, card=card)
    print_metrics(metrics)
    print(f"{args.out}: base {saved.id[:12]}, {model.parameter_count():,} parameters")


def _start(args: argparse.Namespace) -> Base | None:
    """The checkpoint of `--base`."""
    if args.base is None:
        return None
    for name in ("preset", "tokenizer"):
        value = getattr(args, name)
        if value is not None:
            raise UsageError(f"--{name} is {value}; --base brings its own, so leave it out")
    return load_tunable(args.base)


def _shape(args: argparse.Namespace, tokenizer: Tokenizer) -> Architecture:
    changes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    if args.context:
        changes["context_length"] = args.context
    return dataclasses.replace(preset(args.preset or "small"), **changes)


def _origin(base: Base | None) -> dict[str, Any]:
    """For the card: the weights that the run began with, and what they had been trained on."""
    if base is None:
        return {}
    before = {name: base.card.get(name) for name in ("tokens", "data", "origin")}
    return {"origin": {"sha256": base.id, **{k: v for k, v in before.items() if v is not None}}}


def _check_resume(directory: Path, identity: dict[str, Any], data: Sequence[Path]) -> None:
    """Before other tokens take the place of those in the directory of the run."""
    state = saved_state.load(directory)
    saved_state.check_same(state, identity)
    if [source["sha256"] for source in state["identity"]["data"]] != list(map(file_sha256, data)):
        raise UsageError("--resume: --data is not what the saved run was trained on")


def new_model(config: Architecture, settings: LoopSettings) -> Transformer:
    """A network with fresh weights, drawn on the CPU: the same on every device."""
    model = Transformer(config, settings.dropout)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    prepare(model, settings)
    return model.to(settings.torch_device)
