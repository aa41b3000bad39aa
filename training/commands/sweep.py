"""`penwright-train sweep`: search for good settings of any training command.

    penwright-train sweep --trials 20 --search lr=1e-4..1e-2:log lora-rank=4,8,16 -- \\
        classify --base base --data messages.csv --out messages

What follows `--` is the command, without the flags that are searched. Each trial is one run of it,
judged by its validation part alone, and the best one is printed as a command line. Called again,
a sweep that was stopped goes on; with more `--trials`, it adds to what it knows. What is in the
directory of `--study`, `training.sweep.study` says. Needs Optuna: pip install '.[sweep]'.
"""

import argparse
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import PenwrightError, UsageError
from training.commands import classify, dpo, instruct, pretrain
from training.sweep.space import FlagParser, check_command, flags_of, parse_space
from training.sweep.study import sweep
from training.sweep.trial import Plan

if TYPE_CHECKING:
    import optuna

_TRAININGS: dict[str, tuple[Any, bool]] = {
    "pretrain": (pretrain, False),
    "classify": (classify, True),
    "instruct": (instruct, True),
    "dpo": (dpo, True),
}
"""The commands that can be searched, and whether they publish the best evaluation's weights."""

_DIRECTIONS = ("minimize", "maximize")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--search",
        nargs="+",
        required=True,
        metavar="FLAG=VALUES",
        help="what to search: FLAG=LOW..HIGH, FLAG=LOW..HIGH:log, FLAG=A,B,C",
    )
    parser.add_argument("--trials", type=int, default=20, help="trials in all (20)")
    parser.add_argument("--study", type=Path, help="directory of the sweep (default: OUT.sweep)")
    parser.add_argument("--metric", default="val_loss", help="what to judge by (val_loss)")
    parser.add_argument(
        "--direction",
        help="minimize or maximize the metric (default: minimize a loss or perplexity, "
        "maximize others)",
    )
    parser.add_argument("--no-prune", action="store_true", help="let every trial run to its end")
    parser.add_argument("--sweep-seed", type=int, default=1, help="of the values to try (1)")
    parser.add_argument(
        "command_line", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run"
    )


def run(args: argparse.Namespace) -> None:
    plan, out = _plan(args)
    if importlib.util.find_spec("optuna") is None:
        raise PenwrightError(
            "optuna is not installed: run pip install '.[sweep]' in Penwright's directory"
        )
    if plan.space and not args.no_prune and not plan.comparable:
        print("trials are not stopped early: they differ in how much a step does")
    trials = sweep(plan)
    _print(plan, trials, out)


def _plan(args: argparse.Namespace) -> tuple[Plan, Path]:
    """What to do, and where the command itself would publish.

    Raises:
        UsageError: a flag of the sweep or of its command is wrong; names it.
    """
    if args.trials < 1:
        raise UsageError(f"--trials is {args.trials}; it must be at least 1")
    if not 0 <= args.sweep_seed < 2**31:
        raise UsageError(f"--sweep-seed is {args.sweep_seed}; it must be at least 0 and below 2^31")
    words = list(args.command_line)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words[0] not in _TRAININGS:
        raise UsageError(
            f"after -- comes {words[0] if words else 'nothing'}; it must be one of "
            f"{', '.join(_TRAININGS)}, with its flags"
        )
    module, keep_best = _TRAININGS[words[0]]
    parser = FlagParser(f"penwright-train {words[0]}", allow_abbrev=False, add_help=False)
    module.add_arguments(parser)
    space = parse_space(args.search, parser)
    parsed = check_command(parser, words[1:], space)
    plan = Plan(
        words=tuple(_without_out(words)),
        space=space,
        directory=args.study or Path(f"{parsed.out}.sweep"),
        trials=args.trials,
        metric=args.metric,
        direction=_direction(args),
        keep_best=keep_best,
        seed=args.sweep_seed,
        prune=not args.no_prune,
    )
    return plan, parsed.out


def _direction(args: argparse.Namespace) -> Any:
    if args.direction is None:
        lower = args.metric.endswith(("loss", "perplexity", "error"))
        return "minimize" if lower else "maximize"
    if args.direction not in _DIRECTIONS:
        raise UsageError(
            f"--direction is {args.direction!r}; it must be one of {', '.join(_DIRECTIONS)}"
        )
    return args.direction


def _without_out(words: Sequence[str]) -> list[str]:
    """A command line without `--out` and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def _print(plan: Plan, trials: "Sequence[optuna.trial.FrozenTrial]", out: Path) -> None:
    """The trials from best to worst, and the best one's command line."""
    by_state: dict[str, list[Any]] = {"COMPLETE": [], "PRUNED": [], "FAIL": []}
    for trial in trials:
        by_state[trial.state.name].append(trial)
    sign = -1 if plan.direction == "maximize" else 1
    complete = sorted(by_state["COMPLETE"], key=lambda trial: sign * trial.value)
    print(f"\n{plan.metric:>10}  trial  settings")
    for trial in complete:
        settings = " ".join(flags_of(trial.params))
        print(f"{trial.value:>10.5g}  {trial.number:>5}  {settings}")
    for trial in by_state["PRUNED"]:
        print(f"{'stopped':>10}  {trial.number:>5}  {' '.join(flags_of(trial.params))}")
    for trial in by_state["FAIL"]:
        settings = " ".join(flags_of(trial.params))
        print(f"{'failed':>10}  {trial.number:>5}  {settings}: {trial.user_attrs.get('message')}")
    if not complete:
        raise PenwrightError("no trial came to its end")
    best = complete[0]
    words = ["penwright-train", *plan.words, *flags_of(best.params), "--out", str(out)]
    print(f"\nbest: trial {best.number}, published at {plan.directory}/trial-{best.number:04d}")
    print(shlex.join(words))
