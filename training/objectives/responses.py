"""Responses to instructions: pairs of prompt and response as tokens, and their loss.

A pair is the prompt of `model.prompts`, which ends where the response begins, then the response and
the end token. The loss is the mean cross-entropy over the tokens of responses, their end tokens
included. Which those are is known from lengths: the padding is the end token too.
"""

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
from model.prompts import Alpaca, Message, Template
from model.tokenizer import Tokenizer
from training.data.conversations import Instruction, InstructionData
from training.data.encodable import encodable
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE, Batch, pad_rows, padded_length
from training.measure.answers import Response, respond, response_metrics
from training.objectives.cross_entropy import token_loss
from training.tuning.methods import Tuning, report_parts
from training.tuning.network import Network

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
    rows = encodable(rows, lambda row: row.texts, tokenizer)
    for row in rows:
        pair = _pair(row, tokenizer, template)
        if len(pair.tokens) <= context:
            kept.append(pair)
            fitting.append(row)
    return Pairs(tuple(kept), tuple(fitting), too_long=len(rows) - len(kept))


def _pair(row: Instruction, tokenizer: Tokenizer, template: Template) -> Pair:
    """One conversation up to what ends the response."""
    messages = [*row.messages, Message("assistant", row.output)]
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
