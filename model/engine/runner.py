"""One step on the device: a flat batch of chunks through the network.

All tokens of a step stand in one dimension, sorted by adapter, so that each adapter is applied to
one run of neighbouring rows and no padding is computed. Logits and labels are computed only for
sequences whose last token is in the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from model.checkpoint import Adapter, Base
from model.engine.request import Classify, Embed
from model.engine.scheduler import Chunk
from model.engine.scheduler import Sequence as RunningSequence
from model.kv_cache import CacheStep, KVCache, Segment
from model.lora import AdapterRows, LoRA


@dataclass(frozen=True)
class StepOutput:
    """What a step computed for the chunks that complete their sequences."""

    generating: list[Chunk]
    logits: Tensor
    """(len(generating), vocab)"""
    classified: list[tuple[Chunk, tuple[float, ...], tuple[float, ...]]]
    """Label probabilities of each, and the logits that they are the softmax of."""
    embedded: list[tuple[Chunk, tuple[float, ...]]]
    """The mean of the hidden states of all tokens, (n_embd,)."""


class Runner:
    """The network, its adapters and its cache, on one device."""

    def __init__(self, base: Base, adapters: Mapping[str, Adapter], cache: KVCache) -> None:
        self.base = base
        self.adapters = dict(adapters)
        self.cache = cache
        self.device = base.model.device

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> StepOutput:
        """Compute `chunks`; their keys and values are in the cache when this returns."""
        chunks = sorted(chunks, key=lambda chunk: chunk.sequence.request.adapter or "")
        tokens = [token for chunk in chunks for token in chunk.tokens]
        positions = [
            chunk.sequence.cached + offset for chunk in chunks for offset in range(chunk.length)
        ]
        segments = [Segment(c.sequence.blocks, c.sequence.cached, c.length) for c in chunks]
        hidden = self.base.model(
            torch.tensor(tokens, device=self.device),
            positions=torch.tensor(positions, device=self.device),
            cache=CacheStep(self.cache, segments),
            adapters=self._adapter_rows(chunks),
        )
        ends: list[tuple[Chunk, int]] = []
        end = 0
        for chunk in chunks:
            start, end = end, end + chunk.length
            if isinstance(chunk.sequence.request.want, Embed):
                _add_up(chunk.sequence, hidden[start:end])
            if chunk.completes:
                ends.append((chunk, end - 1))
        return self._outputs(hidden, ends)

    def _outputs(self, hidden: Tensor, ends: list[tuple[Chunk, int]]) -> StepOutput:
        generating, rows, classified, embedded = [], [], [], []
        for chunk, row in ends:
            request = chunk.sequence.request
            if isinstance(request.want, Classify):
                head = self.adapters[request.adapter].head if request.adapter else self.base.head
                assert head is not None, "the engine admits no such request"
                logits = head.calibrated(hidden[row : row + 1])[0]
                probabilities = torch.softmax(logits, dim=-1)
                classified.append((chunk, tuple(probabilities.tolist()), tuple(logits.tolist())))
            elif isinstance(request.want, Embed):
                total = chunk.sequence.hidden_sum
                assert total is not None, "a chunk was added up before"
                embedded.append((chunk, tuple((total / len(request.tokens)).tolist())))
            else:
                generating.append(chunk)
                rows.append(row)
        logits = self.base.model.logits(hidden[rows])
        return StepOutput(generating, logits, classified, embedded)

    def _adapter_rows(self, chunks: Sequence[Chunk]) -> AdapterRows | None:
        groups: list[tuple[LoRA, slice]] = []
        start = 0
        for name, group in groupby(chunks, key=lambda chunk: chunk.sequence.request.adapter):
            end = start + sum(chunk.length for chunk in group)
            if name is not None:
                groups.append((self.adapters[name].lora, slice(start, end)))
            start = end
        return AdapterRows(groups) if groups else None


def _add_up(sequence: RunningSequence, hidden: Tensor) -> None:
    """Add the hidden states of its next tokens, (tokens, n_embd), to what a sequence has."""
    total = hidden.float().sum(dim=0)
    before = sequence.hidden_sum
    sequence.hidden_sum = total if before is None else before + total
