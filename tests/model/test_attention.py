"""Attention over the cache in C: close to torch's, and the same bits however it is cut up."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import library
from model.cpu.attention import TOKENS, PagedCache, Plan
from tests.model.layers import kernel_or_skip

SHAPES = [(12, 64), (4, 16), (2, 96)]
"""(heads, head_dim)"""
CELLS = [torch.float32, torch.bfloat16]
BLOCKS = 40
Segment = tuple[Sequence[int], int, int]
"""Block ids, tokens that are cached, new tokens."""


def new_cache(
    shape: tuple[int, int],
    path: str | None = "portable",
    dtype: torch.dtype = torch.float32,
    group: int = 1,
) -> PagedCache:
    """Full of NaN: what was not stored must not be read."""
    kernel = kernel_or_skip(path)
    heads, dim = shape
    keys = torch.full((2, BLOCKS, heads, TOKENS, dim), torch.nan, dtype=dtype)
    return PagedCache(kernel, keys, keys.clone(), group)


def random_qkv(tokens: int, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """(tokens, 3, heads, head_dim)"""
    return torch.randn(tokens, 3, *shape, generator=torch.Generator().manual_seed(seed))


def attend(cache: PagedCache, segments: list[Segment], qkv: Tensor) -> Tensor:
    return Plan(cache, segments).attend(1, *qkv.unbind(1))


def by_torch(qkv: Tensor, start: int, dtype: torch.dtype) -> Tensor:
    """The tokens from `start` on of one sequence, all of whose `qkv` are given."""
    query, key, value = (part.transpose(0, 1)[None] for part in qkv.unbind(1))
    key, value = key.to(dtype).float(), value.to(dtype).float()
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return out[0].transpose(0, 1)[start:]


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", library.PATHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_agrees_with_torch(path: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Prefill, decoding and later chunks in one step; other paths give the same bits."""
    ours, portable = new_cache(shape, path, dtype), new_cache(shape, "portable", dtype)
    sequences = [random_qkv(120, shape, seed) for seed in range(3)]
    blocks = [[7, 3, 9, 30, 8, 1, 0, 39], [2, 20, 12, 11, 13, 10, 21, 22], list(range(31, 39))]
    steps = [
        [(0, 0, 7), (1, 0, 33)],
        [(0, 7, 1), (2, 0, 64), (1, 33, 40)],
        [(1, 73, 1), (0, 8, 100), (2, 64, 1)],
    ]
    for step in steps:
        segments = [(blocks[number], start, length) for number, start, length in step]
        qkv = torch.cat([sequences[n][start : start + length] for n, start, length in step])
        got = attend(ours, segments, qkv)
        goal = torch.cat(
            [by_torch(sequences[n][: start + length], start, dtype) for n, start, length in step]
        )
        assert (got - goal).abs().max() < 1e-5
        assert torch.equal(got, attend(portable, segments, qkv))


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", library.PATHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cuts", [[1] * 130, [7, 64, 3, 56], [16] * 8 + [2]])
def test_chunks_blocks_and_neighbours_change_no_bit(
    path: str, shape: tuple[int, int], cuts: list[int], dtype: torch.dtype
) -> None:
    qkv = random_qkv(130, shape)
    whole = attend(new_cache(shape, path, dtype), [(range(9), 0, 130)], qkv)
    cache, parts, start = new_cache(shape, path, dtype), [], 0
    blocks = [5, 39, 1, 0, 20, 21, 8, 9, 10]
    for length in cuts:
        beside = random_qkv(5, shape, start)
        both = torch.cat([beside, qkv[start : start + length]])
        parts.append(attend(cache, [([30], 0, 5), (blocks, start, length)], both)[5:])
        start += length
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", library.PATHS)
@pytest.mark.parametrize(("heads", "dim", "group"), [(3, 64, 3), (1, 32, 5), (2, 96, 7)])
def test_query_heads_that_share_keys(
    path: str, heads: int, dim: int, group: int, dtype: torch.dtype
) -> None:
    """Each gets the bits that it gets with keys and values of its own."""
    query = random_qkv(130, (heads * group, dim))[:, 0]
    key, value = random_qkv(130, (heads, dim), 1)[:, :2].unbind(1)
    shared = new_cache((heads, dim), path, dtype, group)
    apart = new_cache((heads * group, dim), path, dtype)
    blocks = [5, 39, 1, 0, 20, 21, 8, 9, 10]
    for start, length in ((0, 33), (33, 1), (34, 96)):
        rows, segments = slice(start, start + length), [(blocks, start, length)]
        got = Plan(shared, segments).attend(1, query[rows], key[rows], value[rows])
        own = (part[rows].repeat_interleave(group, 1) for part in (key, value))
        assert torch.equal(got, Plan(apart, segments).attend(1, query[rows], *own))


@pytest.mark.parametrize("path", library.PATHS)
def test_a_later_token_that_is_no_number_stays_alone(path: str) -> None:
    """Also within the few rows that are computed at once, where a weight of 0 would spread it."""
    shape = (2, 16)
    qkv = random_qkv(40, shape)
    goal = attend(new_cache(shape, path), [(range(3), 0, 40)], qkv)
    for at in (1, 2, 3, 21):
        broken = qkv.clone()
        broken[at] = torch.nan
        got = attend(new_cache(shape, path), [(range(3), 0, 40)], broken)
        assert torch.equal(got[:at], goal[:at])
        assert got[at:].isnan().all()


@pytest.mark.parametrize("path", library.PATHS)
def test_cells_are_rounded_as_torch_rounds(path: str) -> None:
    cache = new_cache((1, 16), path, torch.bfloat16)
    qkv = random_qkv(16, (1, 16))
    qkv[3, 2, 0, :5] = torch.tensor([torch.inf, -torch.inf, 3.4e38, 1e-40, 1 + 2**-8])
    qkv[4, 2, 0, 0] = torch.tensor([-1], dtype=torch.int32).view(
        torch.float32
    )  # a NaN whose bits would overflow
    attend(cache, [([4], 0, 16)], qkv)
    keys, values = cache._held
    assert torch.equal(values[1, 4, 0, :4], qkv[:4, 2, 0].bfloat16())
    assert values[1, 4, 0, 4, 0].isnan()
    assert torch.equal(keys[1, 4, 0].view(16, 16).T, qkv[:, 1, 0].bfloat16())
    assert keys[0].isnan().all()
    assert keys[1, 5].isnan().all()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_strides_and_types_change_no_bit(threads: int) -> None:
    shape = SHAPES[0]
    qkv = random_qkv(200, shape).bfloat16()
    segments: list[Segment] = [(range(13), 0, 200)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    got = attend(new_cache(shape), segments, qkv.float())
    torch.set_num_threads(before)
    alone = [part.contiguous() for part in qkv.unbind(1)]
    out = Plan(new_cache(shape), segments).attend(1, *alone)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, got.bfloat16())


def test_large_scores_do_not_overflow() -> None:
    qkv = random_qkv(40, (2, 16)) * 1000
    got = attend(new_cache((2, 16)), [(range(3), 0, 40)], qkv)
    assert torch.allclose(got, by_torch(qkv, 0, torch.float32), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("blocks", [[0, 1], [0, 1, BLOCKS], [0, -1, 2]])
def test_a_plan_outside_of_the_cache_is_refused(blocks: list[int]) -> None:
    with pytest.raises(ValueError, match="block"):
        Plan(new_cache((2, 16)), [(blocks, 30, 3)])


@pytest.mark.parametrize(
    ("tokens", "width", "dtype", "fits"),
    [
        (16, 64, torch.float32, True),
        (16, 16, torch.bfloat16, True),
        (32, 64, torch.float32, False),
        (16, 24, torch.float32, False),
        (16, 64, torch.float16, False),
    ],
)
def test_which_caches_the_kernel_can_do(
    tokens: int, width: int, dtype: torch.dtype, fits: bool
) -> None:
    assert PagedCache.fits(torch.empty(1, 2, 3, tokens, width, dtype=dtype)) == fits


def test_without_assertions_a_block_that_is_not_there_is_refused() -> None:
    """`python -O` drops every `assert`; what C relies on must not go with them."""
    script = (
        "import torch; from model.cpu import library\n"
        "from model.cpu.attention import PagedCache, Plan\n"
        "cells = torch.zeros(1, 3, 1, 16, 16)\n"
        "cache = PagedCache(library.load(), cells, cells.clone())\n"
        "x = torch.zeros(1, 1, 16)\n"
        "try: Plan(cache, [([10**9], 0, 1)]).attend(0, x, x, x)\n"
        "except ValueError as error: print(error)\n"
    )
    if library.load() is None:
        pytest.skip("the C kernels were not compiled when the package was installed")
    command = [sys.executable, "-O", "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert "blocks are from 0 to 2" in done.stdout
