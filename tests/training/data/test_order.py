"""The order of examples: whole epochs, similar lengths together, mixtures."""

from collections import Counter

import pytest

from model.errors import UsageError
from training.data.order import MixedOrder, ShuffledOrder


def test_order_is_a_permutation_of_each_epoch_and_depends_on_the_seed() -> None:
    order = ShuffledOrder(10, seed=1)
    epochs = [[order[10 * epoch + i] for i in range(10)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert ShuffledOrder(10, seed=1)[17] == epochs[1][7]
    assert [ShuffledOrder(10, seed=2)[i] for i in range(10)] != epochs[0]


def test_batches_of_similar_lengths_hold_every_item_once_an_epoch() -> None:
    lengths = [(i * 7919) % 100 for i in range(101)]
    order = ShuffledOrder(101, seed=3, lengths=lengths, batch_size=4)
    items = [order[i] for i in range(3 * 101)]
    for epoch in range(3):
        assert sorted(items[epoch * 101 : (epoch + 1) * 101]) == list(range(101))
    assert items[:101] != items[101:202]
    again = ShuffledOrder(101, seed=3, lengths=lengths, batch_size=4)
    assert [again[i] for i in (250, 3, 120)] == [items[i] for i in (250, 3, 120)]

    def padded(chosen: list[int]) -> int:
        batches = [chosen[i : i + 4] for i in range(0, len(chosen), 4)]
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    plain = ShuffledOrder(101, seed=3)
    assert padded(items) < 0.75 * padded([plain[i] for i in range(3 * 101)])
    # What comes first is not what is short: batches stay in random order.
    firsts = [lengths[order[4 * i]] for i in range(20)]
    assert firsts != sorted(firsts)


def test_a_mixture_has_its_shares_and_repeats_nothing_early() -> None:
    counts = [50, 400, 30]
    order = MixedOrder(counts, [2, 6, 1], seed=5)
    items = [order[position] for position in range(2000)]
    sources = [0 if i < 50 else 1 if i < 450 else 2 for i in items]
    for start in (0, 1000):
        assert Counter(sources[start : start + 1000]) == {0: 222, 1: 667, 2: 111}
    for source, count in enumerate(counts):
        own = [i for i, s in zip(items, sources, strict=True) if s == source]
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count
    assert items[:1000] != items[1000:]
    # A position's item depends on nothing that was asked before.
    again = MixedOrder(counts, [2, 6, 1], seed=5)
    assert [again[i] for i in (1500, 3, 999)] == [items[i] for i in (1500, 3, 999)]
    other = MixedOrder(counts, [2, 6, 1], seed=6)
    assert [other[i] for i in range(50)] != items[:50]


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ([5, 5], [1, 0], "number 2 is 0; it must be a number above 0"),
        ([5, 5], [-1, 1], "number 1 is -1"),
        ([5, 5], [float("nan"), 1], "number 1 is nan"),
        ([5, 5], [1, 1e-6], "at least a 1000th"),
        ([5, 0], [1, 1], "file 2 has no whole window"),
    ],
)
def test_bad_mixtures_are_refused(counts: list[int], weights: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixedOrder(counts, weights, seed=1)
