"""Flags that several commands share."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.lora import TARGETS
from training.data.files import add_encoding
from training.tasks.training import Job
from training.tuning.card import portable_command
from training.tuning.methods import Method


def add_job(parser: argparse.ArgumentParser) -> None:
    """Where a training works, and what it publishes."""
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument("--run", type=Path, help="directory of the run (default: OUT.run)")
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, memory, compute and an estimate of the time; train nothing",
    )
    parser.add_argument(
        "--licence", action="append", default=[], help="source and licence of data, for the card"
    )


def job(args: argparse.Namespace) -> Job:
    return Job(
        out=args.out,
        run=args.run,
        resume=args.resume,
        dry_run=args.dry_run,
        licences=tuple(args.licence),
        command=portable_command(sys.argv[1:]),
    )


def add_parts_of(parser: argparse.ArgumentParser) -> None:
    """For measuring several checkpoints on the same rows."""
    parser.add_argument(
        "--parts-of",
        type=Path,
        metavar="DIR",
        help="measure on the rows that did not train this checkpoint, to compare the two",
    )


def add_tuning(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """What all fine-tunings take, the flags of the loop aside."""
    parser.add_argument("--base", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="data files")
    add_encoding(parser)
    add_job(parser)
    parser.add_argument("--method", default="lora", help=f"one of {', '.join(methods)} (lora)")
    parser.add_argument("--lora-rank", type=int, help="rank of the adapters (16)")
    parser.add_argument("--lora-alpha", type=float, help="their scale times rank (2 × rank)")
    parser.add_argument(
        "--lora-targets",
        nargs="+",
        metavar="LAYER",
        help=f"among {', '.join(TARGETS)} (all that the network has)",
    )


def method(args: argparse.Namespace) -> Method:
    return Method(args.method, args.lora_rank, args.lora_alpha, tuple(args.lora_targets or ()))
