"""One step on the device: a flat batch of chunks through the network.

All tokens of a step stand in one dimension, sorted by adapter, so that each adapter is applied to
one run of neighbouring rows and no padding is computed. Logits, labels and embeddings are computed
only for sequences whose last token is in the step; logits for the tokens of its draft as well.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from model.checkpoint import Adapter, Base
from model.classifier import ClassifierHead
from model.cpu.quantized_blocks import QuantizedBlocks
from model.engine.request import (
    Classified,
    Classify,
    Embed,
    Embedded,
    Event,
    Failed,
    Request,
    Score,
)
from model.engine.sequence import Chunk, TokenSequence
from model.kv_cache import CacheStep, KVCache
from model.lora import AdapterRows, LoRA


class StepOutput(NamedTuple):
    """What a step gives to the sequences whose last token was in it."""

    results: list[tuple[TokenSequence, list[Event]]]
    """Labels and embeddings, which end their sequences."""
    generating: list[Chunk]
    logits: Tensor
    """(rows, vocab), for their next tokens: of each chunk for what follows the sequence's last
    token, then for what follows each token of its draft."""
    scoring: list[tuple[Chunk, Tensor]]
    """Those whose tokens are to be scored, and the hidden states of theirs in the step,
    (tokens, n_embd)."""


class Runner:
    """The network, its adapters and its cache, on one device."""

    def __init__(self, base: Base, adapters: Mapping[str, Adapter], cache: KVCache) -> None:
        self.base = base
        self.adapters = dict(adapters)
        self.cache = cache
        self.device = base.model.device

    @property
    def exact(self) -> bool:
        """Whether a row gets the same bits whatever else is in its step, and so in any chunk.

        On a CPU with the C kernels, where they compute a network with 8-bit weights as a whole, or
        products are made in tiles. Elsewhere a row is nearly the same in another batch.
        """
        model = self.base.model
        tiled = model.tile is not None and all(
            adapter.lora.tile == model.tile for adapter in self.adapters.values()
        )
        whole = any(isinstance(module, QuantizedBlocks) for module in model.blocks)
        return self.cache.paged is not None and (tiled or whole)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> StepOutput:
        """Compute `chunks`; their keys and values are in the cache when this returns."""
        chunks = sorted(chunks, key=lambda chunk: chunk.sequence.request.adapter or "")
        tokens = [token for chunk in chunks for token in chunk.tokens]
        positions = [
            position
            for chunk in chunks
            for position in range(chunk.start, chunk.start + chunk.length)
        ]
        hidden = self.base.model(  # (tokens, n_embd)
            torch.tensor(tokens, device=self.device),
            positions=torch.tensor(positions, device=self.device),
            cache=CacheStep(self.cache, chunks),
            adapters=self._adapter_rows(chunks),
        )
        results: list[tuple[TokenSequence, list[Event]]] = []
        generating: list[Chunk] = []
        scoring: list[tuple[Chunk, Tensor]] = []
        rows: list[int] = []
        end = 0
        for chunk in chunks:
            start, end = end, end + chunk.length
            sequence, want = chunk.sequence, chunk.sequence.request.want
            if sequence.adds_up:
                _add_up(sequence, hidden[start:end])
            if isinstance(want, Score):
                scoring.append((chunk, hidden[start:end]))
                continue
            if not chunk.completes:
                continue
            if isinstance(want, Embed):
                results.append((sequence, [_embedded(sequence)]))
            elif isinstance(want, Classify):
                results.append((sequence, [self._classified(sequence, hidden[end - 1 : end])]))
            else:
                generating.append(chunk)
                rows.extend(range(end - 1 - len(chunk.draft), end))
        return StepOutput(results, generating, self.base.model.logits(hidden[rows]), scoring)

    def adds_up(self, request: Request) -> bool:
        """Whether a request needs the hidden state of every token."""
        if isinstance(request.want, Classify):
            return self._head(request).reads_all
        return isinstance(request.want, Embed)

    def _head(self, request: Request) -> ClassifierHead:
        head = self.adapters[request.adapter].head if request.adapter else self.base.head
        assert head is not None, "such a request is refused on submission"
        return head

    def _classified(self, sequence: TokenSequence, hidden: Tensor) -> Event:
        """The label of a sequence whose last token has `hidden`, (1, n_embd)."""
        head = self._head(sequence.request)
        if sequence.hidden_sum is not None:
            total = sequence.hidden_sum[None]
            hidden = head.joined(hidden, total, sequence.prompt_length)
        logits = head.calibrated(hidden)[0]
        probabilities = torch.softmax(logits, dim=-1).tolist()
        if not _finite(probabilities):
            return Failed("internal", "the network gave no usable probabilities")
        now = sequence.first_result = time.monotonic()
        return Classified(
            tuple(probabilities),
            tuple(logits.tolist()),
            sequence.prompt_length,
            sequence.reused,
            sequence.timings(now),
        )

    def _adapter_rows(self, chunks: Sequence[Chunk]) -> AdapterRows | None:
        groups: list[tuple[LoRA, slice]] = []
        start = 0
        for name, group in groupby(chunks, key=lambda chunk: chunk.sequence.request.adapter):
            end = start + sum(chunk.length for chunk in group)
            if name is not None:
                groups.append((self.adapters[name].lora, slice(start, end)))
            start = end
        return AdapterRows(groups) if groups else None


def _add_up(sequence: TokenSequence, hidden: Tensor) -> None:
    """Add the hidden states of a sequence's next tokens, (tokens, n_embd), to what it has.

    One after another, and in fp64, so that the sum does not depend on the chunks: `sum` would add
    in another order.
    """
    if sequence.hidden_sum is not None:
        hidden = torch.cat([sequence.hidden_sum[None], hidden])
    sequence.hidden_sum = hidden.double().cumsum(dim=0)[-1]


def _embedded(sequence: TokenSequence) -> Event:
    """The embedding of a sequence all of whose hidden states were added up."""
    assert sequence.hidden_sum is not None
    values = (sequence.hidden_sum / sequence.prompt_length).tolist()
    if not _finite(values):
        return Failed("internal", "the network gave no usable hidden states")
    now = sequence.first_result = time.monotonic()
    return Embedded(tuple(values), sequence.prompt_length, sequence.timings(now))


def _finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))
