"""Measuring takes rows in passes of bounded size, and a cache no larger than the answers need."""

from dataclasses import replace

import pytest

from model.checkpoint import Base
from model.engine.request import Generate, Request
from model.kv_cache import BLOCK_TOKENS, blocks_for
from training.measure.classifiers import _ROWS, _TOKENS, _passes
from training.measure.samples import _settings


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
