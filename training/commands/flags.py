"""Flags that several commands share."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import UsageError
from model.lora import TARGETS
from training.data.given import Given
from training.data.labelled import Reading
from training.data.lengths import MOST, Lengths
from training.loop.settings import LENGTHS, LoopSettings
from training.tasks.training import Job
from training.tuning.card import portable_command
from training.tuning.methods import Method
from training.tuning.template import AUTO, CHOICES


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
        "--lora-scaling",
        help="what alpha is divided by: rank, or sqrt-rank, with an alpha of 8 if none is given "
        "(rank)",
    )
    parser.add_argument(
        "--dora",
        action="store_true",
        help="learn the length of each output channel by itself, beside its direction (DoRA)",
    )
    parser.add_argument(
        "--lora-targets",
        nargs="+",
        metavar="LAYER",
        help=f"among {', '.join(TARGETS)} (all that the network has)",
    )
    parser.add_argument(
        "--frozen",
        default="auto",
        help="how a frozen base is held: fp32, bf16, int8, or auto: bf16 where the run's products "
        "are in it, else fp32 (auto)",
    )


def method(args: argparse.Namespace) -> Method:
    targets = tuple(args.lora_targets or ())
    return Method(
        args.method,
        args.lora_rank,
        args.lora_alpha,
        targets,
        args.frozen,
        args.lora_scaling,
        args.dora,
    )


def add_given(parser: argparse.ArgumentParser) -> None:
    """Files that are set apart."""
    for flag, what in (("--val", "validation"), ("--test", "test")):
        parser.add_argument(
            flag,
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help=f"files for the {what}; of those that --data names too, only their {what} part",
        )


def given(args: argparse.Namespace) -> Given:
    return Given(tuple(args.val), tuple(args.test))


def add_lengths(parser: argparse.ArgumentParser) -> None:
    """How long rows may be."""
    parser.add_argument(
        "--max-length",
        type=int,
        help=f"tokens of a row; longer ones are left out ({MOST}, or the context of the base)",
    )
    parser.add_argument(
        "--cut", action="store_true", help="cut longer rows at their end, rather than leave them"
    )


def lengths(args: argparse.Namespace) -> Lengths:
    """
    Raises:
        UsageError: there is no such length.
    """
    return Lengths(args.max_length, args.cut)


def add_template(parser: argparse.ArgumentParser) -> None:
    """How conversations are put before the network."""
    parser.add_argument(
        "--template",
        default=AUTO,
        help=f"of conversations, one of {', '.join(CHOICES)}; auto is the base's own, or alpaca "
        "where it has none (auto)",
    )


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """For all commands that read data."""
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help="of the data's text, such as latin-1 or utf-16 (UTF-8, or as a byte order mark says)",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How labelled texts are read."""
    parser.add_argument("--label-column", help="column of labels (label)")
    parser.add_argument("--text-column", help="column of texts (text)")
    parser.add_argument(
        "--distinct",
        help="exact, or near: texts that differ only in digits and punctuation count once (exact)",
    )
    parser.add_argument(
        "--balance",
        help="none, or undersample: as many texts of each label as the rarest has, also in "
        "validation and test (none)",
    )


def reading(args: argparse.Namespace, card: Mapping[str, Any] | None = None) -> Reading:
    """What the flags say; where they say nothing, what the `card` of a checkpoint says of its
    training, so that the same files give the same texts again; but for the encoding, which is
    another file's own matter."""
    flags = {field.name: getattr(args, field.name) for field in dataclasses.fields(Reading)}
    given = {name: value for name, value in flags.items() if value is not None}
    trained = (card or {}).get("data", {}).get("reading", {})
    return Reading(**{**trained, "encoding": None, **given})


_GIVE_WAY = (*LENGTHS, "warmup")
"""Flags whose default is not what somebody asked for."""


def add_loop(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """A flag for each setting of the loop.

    Args:
        defaults: the task's own.
    """
    group = parser.add_argument_group("training loop")
    giving_way = {}
    for option in dataclasses.fields(LoopSettings):
        default = defaults.get(option.name, option.default)
        flag = "--" + option.name.replace("_", "-")
        if not option.metadata["flag"]:
            continue
        if isinstance(default, bool):
            group.add_argument(flag, action="store_true", help=option.metadata["help"])
            continue
        if option.name in _GIVE_WAY:
            giving_way[option.name] = default
        group.add_argument(
            flag,
            type=type(option.default),
            default=None if option.name in giving_way else default,  # whether it was typed
            metavar=type(option.default).__name__.upper(),
            help=f"{option.metadata['help']} (default {default})",
        )
    parser.set_defaults(loop_defaults=giving_way)


def loop(args: argparse.Namespace) -> LoopSettings:
    """
    Raises:
        UsageError: a value is not allowed, or two lengths are asked for.
    """
    names = [o.name for o in dataclasses.fields(LoopSettings) if o.metadata["flag"]]
    values = {name: getattr(args, name) for name in names}
    values["warmup_gives_way"] = values["warmup"] is None
    typed = [name for name in LENGTHS if values[name]]
    if len(typed) > 1:
        said = " and ".join(f"--{name} {values[name]}" for name in typed)
        raise UsageError(f"{said}: each says how long the run is; give one of them")
    # A default length gives way to the length that was asked for.
    given = dict.fromkeys(LENGTHS, 0) if typed else {}
    for name in _GIVE_WAY:
        if values[name] is None:
            values[name] = given.get(name, args.loop_defaults[name])
    return LoopSettings(**values)


def keep_inputs(flag: str, out: Path, inputs: Iterable[Path | None]) -> None:
    """Let a result that `flag` names take the place of no file that is read.

    Raises:
        UsageError: it would.
    """
    if out.resolve() in {path.resolve() for path in inputs if path is not None}:
        raise UsageError(f"{flag} {out} would replace what is read from it; name another file")
