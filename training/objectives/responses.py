"""Responses to instructions, and their loss: the mean cross-entropy over the tokens of what the
assistant says, and of what ends its turns (see `training.objectives.conversations`).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Base
from model.prompts import Template
from training.data.conversations import Instruction
from training.data.instructions import InstructionData
from training.data.lengths import Lengths, report_too_long
from training.loop.settings import LoopSettings
from training.loop.task import Batch, padded_length
from training.measure import answers as answering
from training.measure.answers import Response, respond, response_metrics
from training.objectives.conversations import (
    Conversation,
    Conversations,
    encode,
    joined,
    last_answer,
    pad,
)
from training.objectives.cross_entropy import token_loss
from training.objectives.packing import PackedAttention, PackedBatch, pack, packs
from training.tuning.methods import Tuning, report_parts
from training.tuning.network import Network

_SAMPLES = (
    Instruction("Name three animals that live in the sea.", "", ""),
    Instruction("Rewrite the sentence in the past tense.", "The boy walks to school.", ""),
)
"""What `--sample-every` shows answers to."""

_ROWS = 16  # of a forward pass when measuring: fixed, so that a measurement can be repeated


class InstructionTuning:
    """Responses to instructions. A `training.loop.run.Task`.

    Args:
        packed: how many tokens of conversations an example holds; 0 for one conversation each.
    """

    name = "instruct"
    keep_best = True

    def __init__(
        self,
        tuning: Tuning,
        train: Conversations,
        val: Conversations,
        settings: LoopSettings,
        template: Template,
        *,
        packed: int = 0,
    ) -> None:
        self.base, self.template = tuning.base, template
        self.trained = tuning.trained
        self.network = tuning.network
        self.train, self.val = train.found, val.found
        self.settings = settings
        self.padding = tuning.base.tokenizer.end_token
        self.device = settings.torch_device
        lengths = [len(each.tokens) - 1 for each in self.train]
        self._packs: list[list[int]] | None = None
        if packed:
            self._packs = packs(lengths, packed)
            lengths = [sum(lengths[i] for i in some) for some in self._packs]
            self.tokens_per_example = sum(lengths) // len(lengths)
        else:
            self.tokens_per_example = padded_length(lengths, settings.batch_size, settings.seed)
        self.lengths = [length + 1 for length in lengths]
        self.examples = len(lengths)

    def batch(self, examples: Sequence[int]) -> Batch:
        if self._packs is None:
            return pad([self.train[i] for i in examples], self.padding, self.device)
        return pack([self.train[i] for row in examples for i in self._packs[row]], self.device)

    def loss(self, batch: Batch) -> Tensor:
        total, _ = token_loss(self.network.model, self._hidden(batch), batch.targets)
        return total

    def _hidden(self, batch: Batch) -> Tensor:
        """(rows, time, n_embd), or (1, tokens, n_embd) if packed"""
        if not isinstance(batch, PackedBatch):
            return self.network.hidden(batch.inputs)
        # Adapters have a dropout of their own; a network that learns has it in its attention.
        learns = self.network.lora is None and self.network.model.training
        dropout = self.settings.dropout if learns else 0.0
        cache = PackedAttention(batch.lengths.tolist(), self.device, dropout=dropout)
        return self.network.hidden(batch.inputs[0], cache, cache.positions)[None]

    def evaluate(self) -> dict[str, float]:
        """Loss per learnt token on conversations spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        chosen = [self.val[index * len(self.val) // wanted] for index in range(wanted)]
        total, count = 0.0, 0
        for start in range(0, wanted, size):
            batch = pad(chosen[start : start + size], self.padding, self.device)
            total += self.loss(batch).item()
            count += batch.count
        return {"val_loss": total / count, "val_perplexity": math.exp(min(total / count, 700.0))}

    def samples(self) -> list[str]:
        """What it answers to instructions that are no data; of those that fit the context."""
        base = replace(self.base, model=self.network.model)
        room = base.config.context_length - 1
        fitting = encode(_SAMPLES, base.tokenizer, room, self.template).rows
        responses = respond(base, self.network.lora, fitting, self.template, max_new_tokens=48)
        return [f"{response.instruction} {response.response}" for response in responses]


@torch.no_grad()
def mean_loss(network: Network, conversations: Sequence[Conversation], padding: int) -> float:
    """Mean cross-entropy over the learnt tokens of all conversations, in nats."""
    by_length = sorted(conversations, key=lambda each: len(each.tokens))
    total, count = 0.0, 0
    for start in range(0, len(by_length), _ROWS):
        batch = pad(by_length[start : start + _ROWS], padding, network.device)
        part, _ = token_loss(network.model, network.hidden(batch.inputs), batch.targets)
        total += part.item()
        count += batch.count
    return total / count


def measure(
    base: Base,
    network: Network,
    test: Conversations,
    untuned: Network | None,
    template: Template,
) -> tuple[dict[str, Any], list[Response]]:
    """The metrics of the test part, and its responses.

    Args:
        base: its tokenizer and stop tokens are used.
        untuned: the base as it was, whose loss is reported beside the network's.
        template: of `test`.
    """
    padding = base.tokenizer.end_token
    tuned = replace(base, model=network.model)
    responses = respond(tuned, network.lora, test.rows, template)
    answers = [last_answer(each) for each in test.found]
    test_metrics: dict[str, Any] = {
        "n": len(answers),
        "tokens": sum(each.targets for each in answers),
        "loss": mean_loss(network, answers, padding),
    }
    if untuned is not None:
        test_metrics["base_loss"] = mean_loss(untuned, answers, padding)
    test_metrics.update(response_metrics(responses))
    return {"test": test_metrics}, responses


def rehearse(
    base: Base,
    network: Network,
    test: Conversations,
    untuned: Network | None,
    template: Template,
) -> None:
    """Take the memory that `measure`, of the same arguments, takes at most."""
    answering.rehearse(replace(base, model=network.model), network.lora, test.rows, template)
    longest = sorted(map(last_answer, test.found), key=lambda each: len(each.tokens))[-_ROWS:]
    for each in (network, untuned):
        if each is not None:
            mean_loss(each, longest, base.tokenizer.end_token)


def encode_parts(
    data: InstructionData,
    base: Base,
    paths: Sequence[Path],
    template: Template,
    lengths: Lengths | None = None,
) -> dict[str, Conversations]:
    """The three parts as tokens; says on stderr what does not fit.

    Raises:
        UsageError: the length that is asked for is above the base's context.
        DataError: nothing of a part fits.
    """
    lengths = lengths or Lengths()
    limit = lengths.limit(base.config.context_length)
    parts = {
        name: encode(rows, base.tokenizer, limit, template, cut=lengths.cut)
        for name, rows in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if data.without_passage:
        print(
            f"{data.without_passage} rows are left out: they ask about a text that is not there",
            file=sys.stderr,
        )
    if data.begun_alike:
        print(
            f"{data.begun_alike} rows are left out: their chats begin as ones that are set apart",
            file=sys.stderr,
        )
    long = [row for part in parts.values() for row in part.too_long]
    report_too_long(long, limit, "rows", cut=lengths.cut)
    report_parts(
        "rows",
        {name: len(part) for name, part in parts.items()},
        paths=paths,
        limit=limit,
        rows=data.rows,
        duplicates=data.duplicates,
    )
    whole = {name: joined(parts[name]) for name in ("train", "val")}
    if any(len(part) < len(parts[name]) for name, part in whole.items()):
        print(
            "answers of one conversation are learnt together: "
            + ", ".join(f"{len(part)} {name} conversations" for name, part in whole.items())
        )
    return {**parts, **whole}
