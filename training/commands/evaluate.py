"""`penwright-train evaluate`: measure a published checkpoint, or a model set.

    penwright-train evaluate checkpoints/scratch/spam --data SMSSpamCollection.tsv
    penwright-train evaluate checkpoints/scratch/base --data wikitext-2-valid.txt \\
        --blimp blimp.jsonl.xz --json base.json --html base.html

What is measured follows from the checkpoint. A classifier and an instruction follower: those rows
of the data that neither trained nor validated it, which the checkpoint knows by their hashes; with
the data of the training, that is its test part and gives the numbers on the card. With `--all` it
is every row, and the report says how many of them trained it. A base:
loss, perplexity and bits per byte on all of the given text, or with `--held-out` on what its
training left out of it; and BLiMP. Each model of a model set is given those data files that are of
its kind. Without anything to measure on, the numbers on the card are printed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.atomic import write_file
from model.checkpoint.files import MODELS, check_file
from model.checkpoint.model_set import load_model_set
from model.errors import DataError, UsageError
from training.commands import flags
from training.data.rows import find_kind
from training.loop.settings import LoopSettings
from training.measure.evaluation import (
    Evaluation,
    Loaded,
    evaluate_base,
    evaluate_classifier,
    evaluate_instructions,
    load,
)
from training.measure.samples import PROMPTS
from training.measure.yardstick import yardstick
from training.report.tables import print_metrics, read_metrics
from training.tuning.card import machine_fields, portable_command, text_splits

_TASK_OF_KIND = {"text": "generate", "labelled": "classify", "instructions": "instruct"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="checkpoint or model set")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="data files")
    flags.add_encoding(parser)
    parser.add_argument("--base", type=Path, help="base of the adapter, if it has moved")
    parser.add_argument(
        "--all", action="store_true", help="all rows, those too that trained the checkpoint"
    )
    parser.add_argument(
        "--test", nargs="+", type=Path, default=[], help="of instructions, further files"
    )
    flags.add_parts_of(parser)
    flags.add_reading(parser)
    parser.add_argument("--blimp", type=Path, help="BLiMP pairs to measure a base on")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="of the texts, only documents that are in the validation part of a training",
    )
    parser.add_argument(
        "--val-fraction", type=float, help="of that training (default: what the card says)"
    )
    parser.add_argument("--prompt", nargs="+", default=list(PROMPTS), help="what a base continues")
    parser.add_argument("--run", type=Path, help="directory of the run (default: DIR.run)")
    parser.add_argument("--json", type=Path, help="file to write the metrics to")
    parser.add_argument("--html", type=Path, help="file to write a report with plots to")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as many as fit)")


def run(args: argparse.Namespace) -> None:
    settings = LoopSettings(steps=1, device=args.device, threads=args.threads)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    _check_outputs(args)
    started = time.perf_counter()
    entries = {}
    for name, (loaded, paths) in _checkpoints(args, settings.torch_device).items():
        found = _evaluate(loaded, paths, args)
        if _is_set(args.checkpoint):
            print(f"{name}: {loaded.task}, {loaded.id[:12]}")
        if found is None:
            print("from the card; give --data to measure again")
        metrics = loaded.card.get("metrics") or {} if found is None else found.metrics
        print_metrics(metrics)
        entries[name] = _entry(loaded, found, args.run)
    report = {
        "command": portable_command(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine_fields(settings.torch_device),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if args.json:
        write_file(args.json, _as_json(report, entries, _is_set(args.checkpoint)))
    if args.html:
        from training.report.html import render  # imports matplotlib

        write_file(args.html, render(report, entries).encode())


def _is_set(path: Path) -> bool:
    return (path / MODELS).is_file()


def _check_outputs(args: argparse.Namespace) -> None:
    """Before anything is computed."""
    for flag, path in (("--json", args.json), ("--html", args.html)):
        if path is not None:
            check_file(path, flag)
            flags.keep_inputs(flag, path, [*args.data, *args.test, args.blimp])
    if args.json and args.html and args.json.resolve() == args.html.resolve():
        raise UsageError(f"--json and --html are both {args.json}; name two files")
    flags.reading(args)
    pipe = next((path for path in args.data if path.is_fifo()), None)
    if pipe is not None and _is_set(args.checkpoint):
        raise UsageError(
            f"--data {pipe} is a pipe, which can be read once; for a set, files are read for their "
            "kind and for the measurement: save it"
        )
    if args.balance is not None:
        raise UsageError(
            "--balance is for `classify`; the metrics have a balanced test beside the natural one"
        )
    if args.test and not args.data:
        raise UsageError("--test is for files beside --data, which is missing")
    fraction = args.val_fraction
    if fraction is not None and not args.held_out:
        raise UsageError("--val-fraction is for --held-out")
    if fraction is not None and not 0 < fraction < 1:
        raise UsageError(f"--val-fraction is {fraction}; it must be between 0 and 1")


def _checkpoints(
    args: argparse.Namespace, device: torch.device
) -> dict[str, tuple[Loaded, Sequence[Path]]]:
    """Each checkpoint to measure with its data files, by its name."""
    if not _is_set(args.checkpoint):
        loaded = load(args.checkpoint, args.base, device, args.parts_of)
        return {args.checkpoint.resolve().name: (loaded, args.data)}
    for flag in ("base", "run", "parts_of"):
        if getattr(args, flag) is not None:
            raise UsageError(
                f"--{flag.replace('_', '-')} is for one checkpoint; {args.checkpoint} is a set"
            )
    models = {
        name: load(path, None, device)
        for name, path in load_model_set(args.checkpoint).paths.items()
    }
    [*classifiers] = (each.card for each in models.values() if each.task == "classify")
    reading = flags.reading(args, *classifiers[:1])
    tasks = {path: _TASK_OF_KIND[find_kind(path, reading)] for path in args.data}
    if args.blimp is not None:
        tasks[args.blimp] = "generate"
    for path, task in tasks.items():
        if task not in {loaded.task for loaded in models.values()}:
            raise DataError(f"{path}: is for {task}, which no model of {args.checkpoint} does")
    return {
        name: (loaded, [path for path in args.data if tasks[path] == loaded.task])
        for name, loaded in models.items()
    }


def _evaluate(loaded: Loaded, paths: Sequence[Path], args: argparse.Namespace) -> Evaluation | None:
    """What is found on the files; None where there are none, and the card must do."""
    is_set = _is_set(args.checkpoint)
    language_model = loaded.task == "generate"
    _check_task(loaded, args)
    if not paths and not (language_model and args.blimp):
        if not loaded.card.get("metrics") and not is_set:
            raise UsageError(f"--data is missing, and the card of {loaded.path} has no metrics")
        return None
    if loaded.network.head is not None:
        return evaluate_classifier(loaded, paths, flags.reading(args, loaded.card), whole=args.all)
    if not language_model:
        return evaluate_instructions(
            loaded, paths, args.test, whole=args.all, encoding=args.encoding
        )
    fraction = _held_out(loaded, args) if args.held_out else None
    return evaluate_base(loaded, yardstick(paths, args.blimp, fraction, args.encoding), args.prompt)


def _check_task(loaded: Loaded, args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: a flag has no meaning for the checkpoint.
    """
    if _is_set(args.checkpoint):
        return
    of = {"blimp": "a base", "held_out": "a base", "test": "a follower of instructions"}
    kinds = {"generate": "a base", "instruct": "a follower of instructions"}
    for name, kind in of.items():
        if getattr(args, name) and kinds.get(loaded.task) != kind:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for {kind}; {loaded.path} is for {loaded.task}")
    for name in ("all", "parts_of"):
        if getattr(args, name) and loaded.task == "generate":
            flag = name.replace("_", "-")
            raise UsageError(
                f"--{flag} is for rows that a tuning learns; {loaded.path} is a base, whose texts "
                "--held-out sorts"
            )


def _held_out(loaded: Loaded, args: argparse.Namespace) -> float:
    splits = text_splits(loaded.card)
    if any(split["cut"] for split in splits):
        raise UsageError(
            f"--held-out: of {loaded.path} none of the text's documents is held out, for each was "
            "cut and its beginning learnt; the validation loss on the card is that of the ends"
        )
    if not splits and args.val_fraction is None:
        raise UsageError(f"--val-fraction is missing, and the card of {loaded.path} has none")
    least = min([split["val_fraction"] for split in splits], default=args.val_fraction)
    if args.val_fraction is not None and args.val_fraction > least:
        raise UsageError(
            f"--val-fraction is {args.val_fraction}; {loaded.path} was trained on all documents "
            f"but {least} of them: give at most that"
        )
    return float(least if args.val_fraction is None else args.val_fraction)


def _entry(loaded: Loaded, found: Evaluation | None, run: Path | None) -> dict[str, Any]:
    """All that is known of one checkpoint."""
    card = loaded.card
    if found is None:
        found = Evaluation(card.get("metrics") or {}, methods={"numbers": "those on the card"})
    log = (run or Path(os.path.abspath(loaded.path) + ".run")) / "metrics.jsonl"
    return {
        "checkpoint": loaded.facts(),
        "data": list(found.sources),
        "metrics": found.metrics,
        "methods": found.methods,
        "curves": found.curves,
        "samples": found.samples,
        # For the report alone; the checkpoint has its card, and the run its log.
        "card": card,
        "log": read_metrics(log) if log.is_file() else [],
    }


def _as_json(report: dict[str, Any], entries: dict[str, dict[str, Any]], is_set: bool) -> bytes:
    """One checkpoint's numbers under `metrics`; those of a model set under `models` by name."""
    parts = {
        name: {key: value for key, value in entry.items() if key not in ("card", "log")}
        for name, entry in entries.items()
    }
    content = {**report, **({"models": parts} if is_set else next(iter(parts.values())))}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
