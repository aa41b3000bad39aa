"""Measuring takes rows in passes of bounded size, and a cache no larger than the answers need."""

from dataclasses import replace

import pytest

from model.checkpoint import Base
from model.engine.request import Generate, Request
from model.kv_cache import BLOCK_TOKENS, blocks_for
from training.measure import classifiers
from training.measure.classifiers import _ROWS, _TOKENS, _passes
from training.measure.samples import _settings
from training.objectives.labels import Rows
from training.tuning.network import Network


def test_passes_hold_every_row_once_and_few_tokens() -> None:
    lengths = [*range(1, 300), 5000, 9000]
    passes = _passes(lengths)
    assert sorted(i for each in passes for i in each) == list(range(len(lengths)))
    for each in passes:
        size = len(each) * max(lengths[i] for i in each)
        assert len(each) == 1 or (len(each) <= _ROWS and size <= _TOKENS)
    assert len(passes[0]) == _ROWS
    assert passes[-2:] == [[299], [300]]
    assert _passes([]) == []


@pytest.mark.parametrize("count", [1, 500])
def test_the_cache_holds_the_longest_request_in_every_slot(count: int, base: Base) -> None:
    wide = replace(base, config=replace(base.config, context_length=4096))
    requests = [Request(str(i), (1,) * (10 + i % 7), Generate(20)) for i in range(count)]
    settings = _settings(wide, requests)
    config, dtype = wide.config, wide.model.dtype
    length = 30 + min(count - 1, 6)
    assert settings.context_length(config, dtype) == length
    blocks = settings.blocks(config, dtype)
    assert blocks >= settings.slots * blocks_for(length)
    assert blocks * BLOCK_TOKENS < 4 * 4096  # 16 contexts are the usual size


def test_no_more_learnt_texts_are_looked_at_than_tell_how_well_they_fit(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spread over all of them: a part is in the order of its labels."""
    seen: list[Rows] = []
    monkeypatch.setattr(classifiers, "accuracy", lambda network, rows, padding: seen.append(rows))
    for total in (3, 1000, 2500):
        rows = Rows(tuple((i,) for i in range(total)), tuple(range(total)), truncated=0)
        classifiers.fitted(Network(base.model), rows, 0)
    assert [len(rows.tokens) for rows in seen] == [3, 1000, 1000]
    assert seen[0].targets == (0, 1, 2)
    assert seen[2].targets[:3] == (0, 2, 5)
    assert seen[2].targets[-1] == 2497
    assert all(token == (target,) for token, target in zip(*_columns(seen[2]), strict=True))


def _columns(rows: Rows) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    return rows.tokens, rows.targets
