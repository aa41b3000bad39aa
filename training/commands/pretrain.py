"""`penwright-train pretrain`: a base model from raw text.

    penwright-train pretrain --data book.txt --tokenizer mine.tiktoken --epochs 10 --out mine

The loss is the mean cross-entropy of the next token over every position of every window.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from model.architecture import Architecture, preset
from model.checkpoint import Base, save_base
from model.checkpoint.files import check_target
from model.errors import UsageError
from model.tokenizer import Tokenizer
from training.data.labelled import SPLIT_RULE
from training.data.tokens import tokenize_files
from training.data.vocabulary import load_tokenizer
from training.loop import state as saved_state
from training.loop.distributed import first_goes_first
from training.loop.dry_run import add_argument as add_dry_run
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.measure import yardstick
from training.measure.samples import continuations
from training.objectives.next_tokens import _PROMPTS, Pretraining, new_model
from training.report.tables import print_metrics
from training.tuning.card import run_fields
from training.tuning.methods import load_tunable, round_as_saved, run_directory


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
        "--token-cache",
        type=Path,
        metavar="DIR",
        help="keep the tokens there, for all runs on the same files (default: in the run)",
    )
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
    # Before other tokens take the place of those in the directory of the run.
    expected = _saved_data(directory, identity) if args.resume else None
    with first_goes_first():
        files = tokenize_files(
            args.data,
            tokenizer,
            directory / "data",
            args.val_fraction,
            expected=expected,
            cache=None if args.dry_run else args.token_cache,
        )
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


def _saved_data(directory: Path, identity: dict[str, Any]) -> list[str]:
    """The SHA-256 of each file of the run that is resumed, which has the same settings."""
    state = saved_state.load(directory)
    saved_state.check_same(state, identity)
    return [source["sha256"] for source in state["identity"]["data"]]
