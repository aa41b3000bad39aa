"""`penwright-train dpo`: a model that answers as people prefer it to.

    penwright-train dpo --base base --adapter instruct --data preferences.json --out preferred

Direct Preference Optimization (Rafailov et al., 2023, equation 7): of two answers to a question,
the network learns to give the chosen one more, and the rejected one less, of the probability that
a frozen reference gives them. See `training.objectives.preferences` for the objective.

What is tuned starts as the reference, which is what `--base` and `--adapter` name:

    --base base                      a base, or a fully fine-tuned instruction follower
    --base base --adapter instruct   the base with an adapter that `instruct` made

With `--method lora` the reference is the same base with the adapter off, or with the adapter as it
was: the base is held once. An adapter given with `--adapter` is trained on, in its own shape. With
`--method full` it is merged into the weights first.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base, is_adapter, load_adapter
from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.lora import LoRASettings
from model.prompts import TEMPLATE, TEMPLATE_VERSION
from training.data.labelled import SPLIT_RULE
from training.data.preferences import PreferenceData, load_preferences
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.measure.answers import Response, respond, response_metrics, responses_file
from training.measure.preferences import measure
from training.objectives.preferences import (
    Objective,
    PreferencePairs,
    PreferenceTuning,
    encode_parts,
)
from training.report.tables import print_metrics
from training.tuning import methods as finetune
from training.tuning.methods import Tuning
from training.tuning.network import Network

METHODS = ("lora", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    finetune.add_arguments(parser, METHODS)
    # Whether the shape was asked for: an adapter that is given has its own.
    parser.set_defaults(lora_rank=None, lora_targets=None)
    parser.add_argument("--adapter", type=Path, help="instruct adapter of the base to start from")
    parser.add_argument(
        "--beta", type=float, default=0.1, help="lower: further from the reference (0.1)"
    )
    parser.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        help="share of the pairs that may be the wrong way round (0)",
    )
    LoopSettings.add_arguments(
        parser, epochs=1.0, lr=5e-5, warmup=10, eval_every=20, eval_batches=0, weight_decay=0.01
    )


@leaves_nothing
def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    objective = Objective(args.beta, args.label_smoothing)
    finetune.check_flags(args, METHODS, settings)
    if args.adapter is not None:
        finetune.keep_apart(args.out, "--adapter", args.adapter)
    shape = None if args.adapter is not None else _given_shape(args, settings)
    data = load_preferences(args.data, encoding=args.encoding)
    base = finetune.load_tunable(args.base)
    adapter = None if args.adapter is None else _load_adapter(args, base)
    parts = encode_parts(data, base, args.data)
    tuning, reference = start(base, adapter, args.method, shape, settings)
    task = PreferenceTuning(tuning, reference, parts["train"], parts["val"], objective, settings)
    directory = finetune.run_directory(args)
    start_id = None if adapter is None else adapter.id
    loop = Run(task, settings, directory)
    if args.dry_run:
        dry_run(loop, tuning.network.model)
        return
    progress = loop.train(
        resume=args.resume,
        describe={
            **finetune.identity(args, tuning, data.sources),
            **asdict(objective),
            "adapter": start_id,
        },
    )
    finetune.round_as_saved(tuning.trained)
    metrics, responses = _measured(base, tuning.network, reference, parts["test"], objective)
    write_file(directory / "responses.json", responses_file(responses))
    card = {
        "task": "dpo",
        **finetune.card_fields(args, tuning, settings, progress),
        **asdict(objective),
        "adapter": start_id and {"name": args.adapter.resolve().name, "sha256": start_id},
        "template": {"name": TEMPLATE, "version": TEMPLATE_VERSION},
        "data": data_fields(data, parts),
        "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
    }
    checkpoint = finetune.publish(args.out, tuning, "instruct", card)
    print_metrics(card["metrics"])
    print(f"{args.out}: {args.method} instruction follower {checkpoint.id[:12]}")


def start(
    base: Base,
    adapter: Adapter | None,
    method: str,
    shape: LoRASettings | None,
    settings: LoopSettings,
) -> tuple[Tuning, Network]:
    """What is tuned, and the frozen reference that it starts as.

    Args:
        shape: of new adapters; None is that of `adapter`.
    """
    if shape is None:
        assert adapter is not None
        shape = replace(adapter.lora.settings, dropout=settings.dropout)
    tuning = finetune.start_tuning(base, method, shape, None, settings)
    frozen = Network(base.model).to(settings.torch_device).model
    if tuning.network.lora is not None:
        frozen = tuning.network.model  # the same weights: they are held once
    if adapter is None:
        return tuning, Network(frozen)
    before = adapter.lora.to(settings.torch_device)
    if tuning.network.lora is not None:
        tuning.network.lora.load_state_dict(before.state_dict())
    else:
        before.merge_into(tuning.network.model)
    return tuning, Network(frozen, before)


def _measured(
    base: Base,
    network: Network,
    reference: Network,
    test: PreferencePairs,
    objective: Objective,
) -> tuple[dict[str, Any], list[Response]]:
    """The metrics of the test part, and its responses. Preferences say nothing of how good the
    answers are that a network writes itself, so these are measured too, before and after."""
    questions = [row.question for row in test.rows]
    before, after = (
        respond(replace(base, model=each.model), each.lora, questions)
        for each in (reference, network)
    )
    metrics = {
        "test": measure(network, reference, test, objective, base.tokenizer.end_token),
        "answers_before": response_metrics(before),
        "answers": response_metrics(after),
    }
    return metrics, after


def _given_shape(args: argparse.Namespace, settings: LoopSettings) -> LoRASettings:
    args.lora_rank = 16 if args.lora_rank is None else args.lora_rank
    args.lora_targets = args.lora_targets or []
    return finetune.lora_settings(args, settings)


def _load_adapter(args: argparse.Namespace, base: Base) -> Adapter:
    """The adapter of `--adapter`.

    Raises:
        UsageError: it is no adapter that follows instructions, or its shape is asked for.
        CheckpointError: it cannot be loaded, or belongs to another base.
    """
    for name in ("lora_rank", "lora_alpha", "lora_targets"):
        if getattr(args, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is given, but with --adapter the adapter's own shape "
                "is kept"
            )
    if not is_adapter(args.adapter):
        raise UsageError(
            f"--adapter {args.adapter} is no adapter; give a checkpoint with weights of its own "
            "as --base"
        )
    adapter = load_adapter(args.adapter, base)
    if adapter.task != "instruct":
        raise UsageError(
            f"--adapter {args.adapter} was made by {adapter.task}; it must be one that follows "
            "instructions"
        )
    return adapter


def data_fields(data: PreferenceData, parts: Mapping[str, PreferencePairs]) -> dict[str, Any]:
    """What the card says of the data."""
    return {
        "files": list(data.sources),
        "rows": data.rows,
        "duplicates": data.duplicates,
        "equal": data.equal,
        "split": {
            "rule": SPLIT_RULE,
            "counts": {name: len(part) for name, part in parts.items()},
        },
        "too_long": {name: part.too_long for name, part in parts.items()},
    }
