"""Attention over the cache in C: close to torch's, and the same bits however it is cut up."""

import pytest
import torch
from torch import Tensor

from model.config import GPTConfig
from model.kernels import int8
from model.kernels.attention import Attention
from model.kv_cache import CacheStep, KVCache, Segment

SHAPES = [(12, 64), (4, 16), (2, 96)]
"""(heads, head_dim)"""


def new_cache(shape: tuple[int, int], path: str | None) -> KVCache:
    """Full of NaN: what was not stored must not be read. `path` None is torch."""
    cache = KVCache(GPTConfig(100, 256, n_layer=2, n_head=shape[0], n_embd=shape[0] * shape[1]), 4)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    cache.attention = None
    if path is not None:
        try:
            kernel = int8.load(path)
        except ValueError:
            pytest.skip(f"this processor has no {path}")
        if kernel is None:
            pytest.skip("the C kernels were not compiled when the package was installed")
        cache.attention = Attention(kernel, cache.keys, cache.values)
    return cache


def random_qkv(tokens: int, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """(tokens, 3, heads, head_dim)"""
    return torch.randn(tokens, 3, *shape, generator=torch.Generator().manual_seed(seed))


def attend(cache: KVCache, segments: list[tuple[int, int, int]], qkv: Tensor) -> Tensor:
    step = CacheStep(cache, [Segment(*segment) for segment in segments])
    return step.attend(1, *qkv.unbind(1))


@pytest.mark.parametrize("path", int8.PATHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_agrees_with_torch(path: str, shape: tuple[int, int]) -> None:
    """Prefill, decoding and later chunks in one step; other paths give the same bits."""
    ours, portable, peer = (new_cache(shape, p) for p in (path, "portable", None))
    steps = [
        [(0, 0, 7), (1, 0, 33)],
        [(0, 7, 1), (2, 0, 64), (1, 33, 40)],
        [(1, 73, 1), (0, 8, 100), (2, 64, 1)],
    ]
    for number, segments in enumerate(steps):
        qkv = random_qkv(sum(s[2] for s in segments), shape, number)
        got = attend(ours, segments, qkv)
        assert (got - attend(peer, segments, qkv)).abs().max() < 1e-5
        assert torch.equal(got, attend(portable, segments, qkv))


@pytest.mark.parametrize("path", int8.PATHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cuts", [[1] * 130, [7, 64, 3, 56], [16] * 8 + [2]])
def test_chunks_and_neighbours_change_no_bit(
    path: str, shape: tuple[int, int], cuts: list[int]
) -> None:
    qkv = random_qkv(130, shape)
    whole = attend(new_cache(shape, path), [(2, 0, 130)], qkv)
    cache, parts, start = new_cache(shape, path), [], 0
    for length in cuts:
        beside = random_qkv(5, shape, start)
        both = torch.cat([beside, qkv[start : start + length]])
        parts.append(attend(cache, [(0, 0, 5), (2, start, length)], both)[5:])
        start += length
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_strides_change_no_bit(threads: int) -> None:
    shape = SHAPES[0]
    qkv = random_qkv(200, shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    got = attend(new_cache(shape, "portable"), [(3, 0, 200)], qkv)
    torch.set_num_threads(before)
    alone = [part.clone() for part in qkv.unbind(1)]
    step = CacheStep(new_cache(shape, "portable"), [Segment(0, 0, 200)])
    assert torch.equal(step.attend(1, *alone), got)


def test_large_scores_do_not_overflow() -> None:
    shape = (2, 16)
    qkv = random_qkv(40, shape) * 1000
    got = attend(new_cache(shape, "portable"), [(0, 0, 40)], qkv)
    goal = attend(new_cache(shape, None), [(0, 0, 40)], qkv)
    assert torch.allclose(got, goal, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("length", "width", "dtype"),
    [(250, 64, torch.float32), (256, 32, torch.float32), (256, 64, torch.bfloat16)],
)
def test_what_the_kernel_cannot_do_is_left_to_torch(
    length: int, width: int, dtype: torch.dtype
) -> None:
    cache = KVCache(GPTConfig(100, length, n_layer=1, n_head=4, n_embd=width), 2, dtype=dtype)
    assert cache.attention is None
