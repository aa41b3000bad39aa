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
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import prompts
from model.checkpoint import Base
from model.checkpoint.atomic import write_file
from model.errors import UsageError
from model.prompts import TEMPLATE, TEMPLATE_VERSION, Alpaca, Message, Template
from model.tokenizer import Tokenizer
from training.data.conversations import (
    Instruction,
    InstructionData,
    load_instructions,
)
from training.data.encodable import encodable
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.run import Batch, Run
from training.loop.settings import LoopSettings
from training.measure.answers import Response, respond, response_metrics, responses_file
from training.objectives.cross_entropy import IGNORE, token_loss
from training.report.tables import print_metrics
from training.tuning import methods as finetune
from training.tuning.methods import Network, Tuning, pad_rows, padded_length, report_parts

METHODS = ("lora", "full")

_SAMPLES = (
    Instruction("Name three animals that live in the sea.", "", ""),
    Instruction("Rewrite the sentence in the past tense.", "The boy walks to school.", ""),
)
"""What `--sample-every` shows answers to."""

_ROWS = 16  # of a forward pass when measuring: fixed, so that a measurement can be repeated


@dataclass(frozen=True)
class Pair:
    """Prompt and response as tokens, the end token last."""

    tokens: tuple[int, ...]
    prompt_length: int

    @property
    def targets(self) -> int:
        """How many tokens are learnt."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Pairs:
    """Encoded instructions."""

    pairs: tuple[Pair, ...]
    rows: tuple[Instruction, ...]
    """What the pairs are made of."""
    too_long: int
    """Rows left out because they do not fit the context."""


def encode(
    rows: Sequence[Instruction],
    tokenizer: Tokenizer,
    context: int,
    template: Template | None = None,
) -> Pairs:
    """Tokens of each row. A row that does not fit the context is left out: cut, it would teach a
    response without its end.

    Args:
        template: of the conversations; by default Alpaca's, which is trained here.
    """
    template = template or Alpaca()
    kept, fitting = [], []
    rows = encodable(rows, lambda row: (row.instruction, row.input, row.output), tokenizer)
    for row in rows:
        pair = _pair(row, tokenizer, template)
        if len(pair.tokens) <= context:
            kept.append(pair)
            fitting.append(row)
    return Pairs(tuple(kept), tuple(fitting), too_long=len(rows) - len(kept))


def _pair(row: Instruction, tokenizer: Tokenizer, template: Template) -> Pair:
    """One conversation up to what ends the response."""
    asked = template.instruction(row.instruction, row.input)
    messages = [*asked, Message("assistant", row.output)]
    encoded = prompts.encode(template.render(messages, answer=False), tokenizer)
    said = [place for place, is_said in enumerate(encoded.said) if is_said]
    return Pair(tuple(encoded.ids[: said[-1] + 1]), prompt_length=said[0])


def pair_batch(pairs: Sequence[Pair], padding: int, device: torch.device) -> Batch:
    """Inputs, and as targets the next token wherever it belongs to a response."""
    inputs, lengths = pad_rows([pair.tokens[:-1] for pair in pairs], padding, device)
    targets = torch.full_like(inputs, IGNORE)
    for row, pair in enumerate(pairs):
        response = torch.tensor(pair.tokens[pair.prompt_length :], device=device)
        targets[row, pair.prompt_length - 1 : len(pair.tokens) - 1] = response
    return Batch(inputs, targets, lengths, count=sum(pair.targets for pair in pairs))


class InstructionTuning:
    """Responses to instructions. A `training.loop.run.Task`."""

    name = "instruct"
    keep_best = True

    def __init__(self, tuning: Tuning, train: Pairs, val: Pairs, settings: LoopSettings) -> None:
        self.base = tuning.base
        self.trained = tuning.trained
        self.network = tuning.network
        self.train, self.val = train.pairs, val.pairs
        self.settings = settings
        self.padding = tuning.base.tokenizer.end_token
        self.device = settings.torch_device
        self.examples = len(self.train)
        self.lengths = [len(pair.tokens) for pair in self.train]
        lengths = [len(pair.tokens) - 1 for pair in self.train]
        self.tokens_per_example = padded_length(lengths, settings.batch_size)

    def batch(self, examples: Sequence[int]) -> Batch:
        return pair_batch([self.train[i] for i in examples], self.padding, self.device)

    def loss(self, batch: Batch) -> Tensor:
        hidden = self.network.hidden(batch.inputs)
        total, _ = token_loss(self.network.model, hidden, batch.targets)
        return total

    def evaluate(self) -> dict[str, float]:
        """Loss per response token on pairs spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        chosen = [self.val[index * len(self.val) // wanted] for index in range(wanted)]
        total, count = 0.0, 0
        for start in range(0, wanted, size):
            batch = pair_batch(chosen[start : start + size], self.padding, self.device)
            total += self.loss(batch).item()
            count += batch.count
        return {"val_loss": total / count, "val_perplexity": math.exp(min(total / count, 700.0))}

    def samples(self) -> list[str]:
        """What it answers to instructions that are no data; of those that fit the context."""
        room = self.base.config.context_length - 1
        fitting = encode(_SAMPLES, self.base.tokenizer, room).rows
        base = replace(self.base, model=self.network.model)
        responses = respond(base, self.network.lora, fitting, max_new_tokens=48)
        return [f"{response.instruction} {response.response}" for response in responses]


@torch.no_grad()
def mean_loss(network: Network, pairs: Sequence[Pair], padding: int) -> float:
    """Mean cross-entropy over the response tokens of all pairs, in nats."""
    by_length = sorted(pairs, key=lambda pair: len(pair.tokens))
    total, count = 0.0, 0
    for start in range(0, len(by_length), _ROWS):
        batch = pair_batch(by_length[start : start + _ROWS], padding, network.device)
        part, _ = token_loss(network.model, network.hidden(batch.inputs), batch.targets)
        total += part.item()
        count += batch.count
    return total / count


def measure(
    base: Base,
    network: Network,
    test: Pairs,
    untuned: Network | None,
    template: Template | None = None,
) -> tuple[dict[str, Any], list[Response]]:
    """The metrics of the test part, and its responses.

    Args:
        base: its tokenizer and stop tokens are used.
        untuned: the base as it was, whose loss is reported beside the network's.
        template: of `test`; by default Alpaca's.
    """
    padding = base.tokenizer.end_token
    tuned = replace(base, model=network.model)
    responses = respond(tuned, network.lora, test.rows, template=template)
    test_metrics: dict[str, Any] = {
        "n": len(test.pairs),
        "tokens": sum(pair.targets for pair in test.pairs),
        "loss": mean_loss(network, test.pairs, padding),
    }
    if untuned is not None:
        test_metrics["base_loss"] = mean_loss(untuned, test.pairs, padding)
    test_metrics.update(response_metrics(responses))
    return {"test": test_metrics}, responses


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
    data = load_instructions(args.data, repeats=args.repeat or (), test=args.test)
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


def encode_parts(
    data: InstructionData, base: Base, paths: Sequence[Path], template: Template | None = None
) -> dict[str, Pairs]:
    """The three parts as tokens; says on stderr what does not fit.

    Raises:
        DataError: nothing of a part fits the context.
    """
    context = base.config.context_length
    parts = {
        name: encode(rows, base.tokenizer, context, template)
        for name, rows in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if data.without_passage:
        print(
            f"{data.without_passage} rows are left out: they ask about a text that is not there",
            file=sys.stderr,
        )
    report_parts(
        "rows",
        {name: len(part.pairs) for name, part in parts.items()},
        paths=paths,
        context=context,
        rows=data.rows,
        duplicates=data.duplicates,
        too_long=sum(part.too_long for part in parts.values()),
    )
    return parts
