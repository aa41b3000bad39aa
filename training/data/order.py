"""In which order a run sees its examples: a function of seed and position alone."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.errors import UsageError

Indices = npt.NDArray[np.int64]


class Order(Protocol):
    """An endless sequence of examples."""

    def __getitem__(self, position: int) -> int:
        """Index of the example at `position`, from 0."""


_POOL = 32  # batches among whose items similar lengths are looked for


class ShuffledOrder:
    """An endless order of `count` items, shuffled anew each epoch.

    The item at a position depends on seed and position alone: where a run stopped, another goes on.

    Args:
        lengths: of the items, where they differ. Neighbours that make up a batch of `batch_size`
            then have similar lengths, so that little padding is computed; which batch comes when
            is as random as before.
    """

    def __init__(
        self, count: int, seed: int, lengths: Sequence[int] | None = None, batch_size: int = 1
    ) -> None:
        self.count = count
        self.seed = seed
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._batch_size = batch_size
        self._epoch = -1
        self._order: Indices = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self.count)
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
            self._epoch = epoch
        return int(self._order[index])

    def _shuffled(self, epoch: int) -> Indices:
        draw = np.random.default_rng((self.seed, epoch))
        order = draw.permutation(self.count)
        if self._lengths is None:
            return order
        # Batches go on across the end of an epoch: the first items complete the last one's.
        size = self._batch_size
        lead, rest = np.split(order, [-epoch * self.count % size])
        pools = [rest[i : i + _POOL * size] for i in range(0, len(rest), _POOL * size)]
        ordered = np.concatenate(
            [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools] or [rest]
        )
        whole = len(ordered) // size * size
        batches = draw.permutation(ordered[:whole].reshape(-1, size))
        return np.concatenate([lead, batches.reshape(-1), ordered[whole:]])


_BLOCK = 1000  # positions among which every source has exactly its share


class MixedOrder:
    """An endless order of items of several sources, each drawn in proportion to its weight.

    Every source goes through all of its items, shuffled anew each time, before one comes again,
    whatever the others do. Of each thousand positions a source has the same number; which ones, is
    random.

    Args:
        counts: items of each source; item 0 of the second one has the index `counts[0]`.
        weights: of each source, above 0; their sum does not matter.

    Raises:
        UsageError: a weight is not above 0, or so small that it stands for no item in a thousand,
            or a source with a weight has no items.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        assert len(counts) == len(weights)
        for index, (count, weight) in enumerate(zip(counts, weights, strict=True), start=1):
            if not 0 < weight < float("inf"):
                raise UsageError(
                    f"--weights: number {index} is {weight}; it must be a number above 0 "
                    "(leave out a file that is not to be used)"
                )
            if not count:
                raise UsageError(
                    f"--weights: file {index} has no whole window; give more text or a smaller "
                    "--context"
                )
        self.counts = list(counts)
        self.seed = seed
        self._shares = _shares(np.asarray(weights, np.float64))
        self._offsets = np.cumsum([0, *counts])
        self._orders = [ShuffledOrder(n, seed + 1 + s) for s, n in enumerate(counts)]
        self._block = -1
        self._sources: Indices = np.empty(0, np.int64)
        self._ranks: Indices = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        block, place = divmod(position, _BLOCK)
        if block != self._block:
            self._draw(block)
        source = int(self._sources[place])
        item = block * int(self._shares[source]) + int(self._ranks[place])
        return int(self._offsets[source]) + self._orders[source][item]

    def _draw(self, block: int) -> None:
        """Which source each position of the block has, and how many of it came before there."""
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        self._sources = np.random.default_rng((self.seed, block)).permutation(sources)
        self._ranks = np.empty_like(self._sources)
        for source, share in enumerate(self._shares):
            self._ranks[self._sources == source] = np.arange(share)
        self._block = block


def _shares(weights: npt.NDArray[np.float64]) -> Indices:
    """Positions of each source in a block, by the largest remainders."""
    exact = weights / weights.sum() * _BLOCK
    shares: Indices = exact.astype(np.int64)
    missing = _BLOCK - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    if not shares.all():
        index = int(np.argmin(shares))
        raise UsageError(
            f"--weights: number {index + 1} is {weights[index]:g} of {weights.sum():g}; "
            f"it must be at least a {_BLOCK}th of all"
        )
    return shares
