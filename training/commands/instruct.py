"""`penwright-train instruct`: a base model that follows instructions.

    penwright-train instruct --base base --data instruction-data.json --out instruct

A pair is the prompt of `model.prompts`, which ends where the response begins, then the response and
the end token. The loss is the mean cross-entropy over the tokens of responses, their end tokens
included. Which those are is known from lengths: the padding is the end token too.

    penwright-train instruct --base base --data instruction-data.json exercises-train.json \\
        --repeat 4 1 --test instruction-data.json exercises-test.json --out instruct

takes the test part of the first file, which is named twice, and all of `exercises-test.json` as the
test; all of `exercises-train.json` but a validation part is learnt.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.prompts import TEMPLATE, TEMPLATE_VERSION
from training.data.conversations import (
    load_instructions,
)
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.measure.answers import responses_file
from training.objectives.responses import InstructionTuning, encode_parts, measure
from training.report.tables import print_metrics
from training.tuning import methods as finetune
from training.tuning.network import Network

METHODS = ("lora", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    finetune.add_arguments(parser, METHODS)
    parser.add_argument(
        "--repeat",
        nargs="+",
        type=float,
        metavar="TIMES",
        help="for each file of --data, how often an epoch has its rows; 0.5 for half of them (1)",
    )
    parser.add_argument(
        "--test",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="files for the test; of those that --data names too, only their test part",
    )
    LoopSettings.add_arguments(
        parser, epochs=4.0, lr=1e-3, warmup=20, eval_batches=0, weight_decay=0.01
    )


@leaves_nothing
def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    finetune.check_flags(args, METHODS, settings)
    lora = finetune.lora_settings(args, settings)
    check_repeats(args.repeat, args.data)
    data = load_instructions(
        args.data, repeats=args.repeat or (), test=args.test, encoding=args.encoding
    )
    base = finetune.load_tunable(args.base)
    parts = encode_parts(data, base, args.data)
    tuning = finetune.start_tuning(base, args.method, lora, None, settings)
    task = InstructionTuning(tuning, parts["train"], parts["val"], settings)
    directory = finetune.run_directory(args)
    loop = Run(task, settings, directory)
    if args.dry_run:
        dry_run(loop, tuning.network.model)
        return
    progress = loop.train(
        resume=args.resume, describe=finetune.identity(args, tuning, data.sources)
    )
    finetune.round_as_saved(tuning.trained)
    untuned = Network(base.model).to(tuning.network.device)
    metrics, responses = measure(base, tuning.network, parts["test"], untuned)
    write_file(directory / "responses.json", responses_file(responses))
    card = {
        "task": "instruct",
        **finetune.card_fields(args, tuning, settings, progress),
        "template": {"name": TEMPLATE, "version": TEMPLATE_VERSION},
        "data": {
            "files": list(data.sources),
            "rows": data.rows,
            "duplicates": data.duplicates,
            "without_passage": data.without_passage,
            "split": {
                "rule": data.split_rule,
                "counts": {name: len(part.pairs) for name, part in parts.items()},
            },
            "too_long": {name: part.too_long for name, part in parts.items()},
        },
        "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
    }
    checkpoint = finetune.publish(args.out, tuning, "instruct", card)
    print_metrics(card["metrics"])
    print(f"{args.out}: {args.method} instruction follower {checkpoint.id[:12]}")


def check_repeats(repeats: Sequence[float] | None, paths: Sequence[Path]) -> None:
    """
    Raises:
        UsageError: there is not one number for each file, or one is not above 0.
    """
    if repeats is None:
        return
    if len(repeats) != len(paths):
        raise UsageError(
            f"--repeat has {len(repeats)} numbers; --data has {len(paths)} files: give one for each"
        )
    for number in repeats:
        if not 0 < number < math.inf:
            raise UsageError(
                f"--repeat has {number}; it must be above 0 (leave out a file that is not used)"
            )
