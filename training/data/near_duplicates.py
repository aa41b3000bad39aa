"""Texts that are nearly the same: MinHash to find them, the exact Jaccard similarity to be sure.

A text is the set of its shingles: the runs of `size` characters of it, case and spacing aside. The
similarity of two texts is the share of their shingles that both have. The smallest values of many
random permutations of the shingles agree between two texts as often as the texts are similar
(Broder, 1997); texts that agree in a whole band of these values are compared (locality-sensitive
hashing, Leskovec et al., "Mining of Massive Datasets", section 3.4).

Written in numpy, over the characters of many texts at once: libraries for this take one shingle
after another through Python. Memory is half a kilobyte a text, beside the texts themselves.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.documents import normalise, text_hash

_Numbers = npt.NDArray[np.unsignedinteger]

PERMUTATIONS = 128

_BATCH = 1 << 18  # characters hashed at once: what fits the processor's cache
_FOUND = 0.995  # of the pairs exactly at the threshold, those that the bands must find


@dataclass(frozen=True)
class Member:
    """A text of a cluster."""

    index: int
    """Which text it is."""
    copy_of: int | None
    """The kept text that it is a near copy of; None if it is kept itself."""
    similarity: float
    """To that text; 1 if it is kept."""


Cluster = tuple[Member, ...]
"""Texts that are connected by near copies, in their order; the first is kept."""


@dataclass(frozen=True)
class Shingles:
    """How a text becomes a set."""

    size: int = 5
    """Characters in a shingle; a text with fewer is one shingle."""
    ignore_digits: bool = False
    """Whether all digits are the same."""

    def normal(self, text: str) -> str:
        """The text without what does not matter, and never empty."""
        text = normalise(text)
        if self.ignore_digits:
            text = re.sub(r"\d", "0", text)
        return text.ljust(self.size, "\0")

    def hashes(self, texts: Sequence[str]) -> tuple[_Numbers, _Numbers]:
        """64-bit hashes of the shingles of all texts, one text's after another's, and where each
        text's begin."""
        normal = [self.normal(text) for text in texts]
        lengths = np.array([len(text) for text in normal])
        encoded = "".join(normal).encode("utf-32-le", "surrogatepass")
        characters = np.frombuffer(encoded, np.uint32).astype(np.uint64)
        count = len(characters) - self.size + 1
        hashes = np.zeros(count, np.uint64)
        for offset in range(self.size):
            hashes = _mixed(hashes + characters[offset : offset + count])
        # Shingles that begin in one text and end in the next belong to neither.
        own = np.ones(len(characters), np.bool_)
        for back in range(1, self.size):
            own[np.cumsum(lengths) - back] = False
        starts = np.concatenate([[0], np.cumsum(lengths - self.size + 1)[:-1]])
        return hashes[own[:count]], starts

    def jaccard(self, a: _Numbers, b: _Numbers) -> float:
        """Of two sets of shingles, each sorted and without repetition."""
        both = len(np.intersect1d(a, b, assume_unique=True))
        return both / (len(a) + len(b) - both)


def near_duplicates(
    texts: Sequence[str], threshold: float, shingles: Shingles | None = None
) -> list[Cluster]:
    """The clusters among `texts`, in the order of their first texts.

    What is kept of a cluster: each text that is no near copy of an earlier kept one. Similarities
    are exact, but for collisions of 64-bit hashes; a pair at the threshold is found with a
    probability of 99.5%, more similar ones more surely.

    Args:
        threshold: the least similarity of near copies, in (0, 1].
    """
    shingles = shingles or Shingles()
    copies: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        copies.setdefault(text_hash(shingles.normal(text)), []).append(index)
    same = list(copies.values())  # of equal texts, only the first is compared with others
    firsts = [texts[indices[0]] for indices in same]

    @functools.lru_cache(maxsize=64)
    def shingle_set(first: int) -> _Numbers:
        unique: _Numbers = np.unique(shingles.hashes([firsts[first]])[0])
        return unique

    def similarity(a: int, b: int) -> float:
        return shingles.jaccard(shingle_set(a), shingle_set(b))

    component = _components(_signatures(firsts, shingles), threshold, similarity)
    members: dict[int, list[int]] = {}
    for first, root in enumerate(component.tolist()):
        members.setdefault(root, []).append(first)
    clusters = [
        _cluster([(first, same[first]) for first in group], threshold, similarity)
        for group in members.values()
        if len(group) > 1 or len(same[group[0]]) > 1
    ]
    return sorted(clusters, key=lambda cluster: cluster[0].index)


def _cluster(
    group: Sequence[tuple[int, Sequence[int]]],
    threshold: float,
    similarity: Callable[[int, int], float],
) -> Cluster:
    """Decide what is kept of connected texts, each given with the indices of its exact copies."""
    kept: list[tuple[int, int]] = []
    members = []
    for first, indices in group:
        best = max(((similarity(first, other), -index) for other, index in kept), default=(0.0, 0))
        if best[0] >= threshold:
            members += [Member(index, -best[1], best[0]) for index in indices]
            continue
        kept.append((first, indices[0]))
        members.append(Member(indices[0], None, 1.0))
        members += [Member(index, indices[0], 1.0) for index in indices[1:]]
    return tuple(sorted(members, key=lambda member: member.index))


def _mixed(x: _Numbers) -> _Numbers:
    """The finaliser of SplitMix64 (Steele et al., 2014) without its last step: every bit of `x`
    moves the upper half of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)


def _signatures(texts: Sequence[str], shingles: Shingles) -> _Numbers:
    """The smallest value of each permutation over each text's shingles, (texts, PERMUTATIONS)."""
    draw = np.random.default_rng(1)
    # x → a·x + b modulo 2^32 with an odd `a` permutes the 32-bit numbers.
    factors = draw.integers(0, 2**31, PERMUTATIONS, np.uint32) * np.uint32(2) + np.uint32(1)
    terms = draw.integers(0, 2**32, PERMUTATIONS, np.uint32)
    signatures = np.empty((len(texts), PERMUTATIONS), np.uint32)
    done = 0
    for batch in _batches(texts):
        hashes, starts = shingles.hashes(batch)
        values = (hashes >> np.uint64(32)).astype(np.uint32)
        permuted = np.empty_like(values)
        for column in range(PERMUTATIONS):
            np.multiply(values, factors[column], out=permuted)
            np.add(permuted, terms[column], out=permuted)
            signatures[done : done + len(batch), column] = np.minimum.reduceat(permuted, starts)
        done += len(batch)
    return signatures


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _components(
    signatures: _Numbers, threshold: float, similarity: Callable[[int, int], float]
) -> npt.NDArray[np.int64]:
    """For each text the first one that it is connected with; (texts,)."""
    component = np.arange(len(signatures))
    # An estimate this far below the threshold is four standard deviations of it away.
    least = threshold - 4 * math.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    different: set[tuple[int, int]] = set()
    for bucket in _buckets(signatures, _rows_of_a_band(threshold)):
        for place, one in enumerate(bucket[:-1].tolist()):
            others = bucket[place + 1 :]
            others = others[component[others] != component[one]]
            estimates = np.mean(signatures[others] == signatures[one], axis=1)
            for other in others[estimates >= least].tolist():
                if component[other] == component[one] or (one, other) in different:
                    continue
                if similarity(one, other) >= threshold:
                    low, high = sorted((component[one], component[other]))
                    component[component == high] = low
                else:
                    different.add((one, other))
    return component


def _rows_of_a_band(threshold: float) -> int:
    """As many values as a band may have (the fewer pairs must be compared) and still find a pair
    at the threshold with a probability of `_FOUND`."""
    fitting = [
        rows
        for rows in range(1, 33)
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= _FOUND
    ]
    return max(fitting, default=1)


def _buckets(signatures: _Numbers, rows: int) -> Iterator[npt.NDArray[np.int64]]:
    """Texts whose signatures agree in a whole band of `rows` values, in their order."""
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        keys = np.zeros(len(signatures), np.uint64)
        for column in range(start, start + rows):
            keys = _mixed(keys + signatures[:, column])
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(
            np.diff(keys[order], prepend=~keys[order[:1]], append=~keys[order[-1:]])
        )
        for place in np.flatnonzero(np.diff(bounds) > 1).tolist():
            yield order[bounds[place] : bounds[place + 1]]
