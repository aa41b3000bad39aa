"""Sampling against plain references that do one row at a time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from model.errors import UsageError
from model.sampling import (
    LogitBias,
    Penalties,
    SamplingSettings,
    device,
    penalise,
    sample,
)
from model.sampling.cpu import log_normaliser, ranked
from model.sampling.device import probabilities

ROWS = st.lists(
    # Quarters: equal logits are common, so ties are met.
    st.lists(st.integers(-24, 24).map(lambda n: n / 4), min_size=12, max_size=12),
    min_size=1,
    max_size=4,
)
SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 2, 5, 12, 1000]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
    min_p=st.one_of(st.just(0.0), st.floats(0.01, 0.99), st.just(1.0)),
)
THOROUGH = settings(derandomize=True, max_examples=150, deadline=None)


class UndecidedError(Exception):
    """Rounding alone decides whether a token stays."""


def reference(logits: Sequence[float], wanted: SamplingSettings) -> list[float]:
    """The distribution of one row, by the definitions, in Python's floats."""
    if wanted.temperature == 0:
        best = max(range(len(logits)), key=lambda i: (logits[i], -i))
        return [float(i == best) for i in range(len(logits))]
    weights = [math.exp((x - max(logits)) / wanted.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    order = order[: wanted.top_k]
    if wanted.top_p < 1:
        total, nucleus, mass = sum(weights[i] for i in order), [], 0.0
        for i in order:
            if abs(mass - wanted.top_p) <= 1e-5:
                raise UndecidedError
            if mass >= wanted.top_p:
                break
            nucleus.append(i)
            mass += weights[i] / total
        order = nucleus
    least = wanted.min_p * weights[order[0]]
    if any(0 < abs(weights[i] - least) <= 1e-5 * least for i in order):
        raise UndecidedError
    kept = {i for i in order if weights[i] >= least}
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@THOROUGH
@given(rows=ROWS, data=st.data())
def test_distributions_equal_the_reference(rows: list[list[float]], data: st.DataObject) -> None:
    wanted = [data.draw(SETTINGS) for _ in rows]
    try:
        expected = torch.tensor([reference(row, s) for row, s in zip(rows, wanted, strict=True)])
    except UndecidedError:
        reject()
    result = probabilities(torch.tensor(rows), wanted)
    assert torch.equal(result > 0, expected > 0)
    assert torch.allclose(result, expected, atol=1e-5)


@THOROUGH
@given(rows=ROWS, data=st.data())
def test_a_row_does_not_depend_on_its_neighbours(
    rows: list[list[float]], data: st.DataObject
) -> None:
    wanted = [data.draw(SETTINGS) for _ in rows]
    uniforms = [data.draw(st.floats(0, 1, exclude_max=True)) for _ in rows]
    together = sample(torch.tensor(rows), wanted, uniforms)
    alone = [
        sample(torch.tensor([row]), [s], [u])[0]
        for row, s, u in zip(rows, wanted, uniforms, strict=True)
    ]
    assert together == alone


@THOROUGH
@given(rows=ROWS, data=st.data(), uniform=st.sampled_from([0.0, 0.5, math.nextafter(1, 0)]))
def test_only_tokens_with_probability_are_drawn(
    rows: list[list[float]], data: st.DataObject, uniform: float
) -> None:
    wanted = [data.draw(SETTINGS) for _ in rows]
    tokens = sample(torch.tensor(rows), wanted, [uniform] * len(rows))
    chances = probabilities(torch.tensor(rows), wanted)
    assert None not in tokens
    assert all(chances[row, token] > 0 for row, token in enumerate(tokens) if token is not None)


def test_temperature_0_takes_the_first_of_the_best() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.1]])
    greedy, warm = SamplingSettings(temperature=0), SamplingSettings(temperature=5.0)
    assert sample(logits, [greedy, greedy], [0.99, 0.99]) == [1, 3]
    # The same beside a row that draws.
    assert sample(logits, [greedy, warm], [0.99, 0.0]) == [1, 0]


def test_top_k_above_the_vocabulary_keeps_all() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    large, none = SamplingSettings(top_k=10**9), SamplingSettings()
    assert torch.allclose(probabilities(logits, [large]), probabilities(logits, [none]))


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """Four equal tokens: two are exactly a half, and the first two are the ones that stay."""
    result = probabilities(torch.zeros(1, 4), [SamplingSettings(top_p=0.5)])
    assert result.tolist() == [[0.5, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize(
    "wanted",
    [
        SamplingSettings(temperature=1e-45),
        SamplingSettings(temperature=1e-30),
        SamplingSettings(temperature=1e6),
        SamplingSettings(top_p=1e-12),
        SamplingSettings(top_p=math.nextafter(1, 0)),
        SamplingSettings(min_p=1.0),
        SamplingSettings(presence_penalty=-1e6),
        SamplingSettings(repetition_penalty=1e-6),
        SamplingSettings(repetition_penalty=1e6),
    ],
    ids=str,
)
def test_extreme_settings_still_give_a_distribution(wanted: SamplingSettings) -> None:
    logits = torch.tensor([40.0, 0.0, -40.0, 39.0])
    logits = penalise(logits, wanted, [0, 3], [1, 2])
    result = probabilities(logits[None], [wanted])
    assert torch.isfinite(result).all()
    assert result.sum().item() == pytest.approx(1.0)
    assert sample(logits[None], [wanted], [0.999])[0] in range(4)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("temperature", -0.1, r"in \[0, 1e6\]"),
        ("temperature", math.nan, r"in \[0, 1e6\]"),
        ("temperature", math.inf, r"in \[0, 1e6\]"),
        ("top_k", 0, "at least 1"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", 1.5, r"in \[0, 1\]"),
        ("repetition_penalty", 0.0, r"in \[1e-6, 1e6\]"),
        ("repetition_penalty", math.inf, r"in \[1e-6, 1e6\]"),
        ("presence_penalty", math.nan, r"in \[-1e6, 1e6\]"),
        ("frequency_penalty", -math.inf, r"in \[-1e6, 1e6\]"),
    ],
)
def test_settings_that_are_refused(field: str, value: float, allowed: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is .*{allowed}"):
        SamplingSettings(**{field: value})  # type: ignore[arg-type]


def draws(logits: Tensor, wanted: SamplingSettings, count: int) -> list[int | None]:
    generator = wanted.generator()
    return [sample(logits, [wanted], [generator.random()])[0] for _ in range(count)]


def test_seeds_are_reproducible() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    first, same, other = (draws(logits, SamplingSettings(seed=s), 40) for s in (7, 7, 8))
    assert first == same
    assert first != other
    assert draws(logits, SamplingSettings(), 40) != draws(logits, SamplingSettings(), 40)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.8])
def test_draws_follow_the_distribution(temperature: float) -> None:
    """Chi-square on 4,000 draws; the seed is fixed, so this passes always or never."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, 2.0, -20.0]])
    wanted = SamplingSettings(temperature=temperature, top_k=6, seed=3)
    generator, count = wanted.generator(), 4000
    tokens = sample(
        logits.expand(count, -1), [wanted] * count, [generator.random() for _ in range(count)]
    )
    expected = reference(logits[0].tolist(), wanted)
    assert 6 not in tokens
    statistic = sum(
        (tokens.count(token) - count * p) ** 2 / (count * p)
        for token, p in enumerate(expected)
        if p > 0
    )
    assert statistic < 20.5  # 99.9% quantile with 5 degrees of freedom


def rows_of_a_model(rows: int, vocab: int, spread: float, seed: int = 0) -> Tensor:
    """Logits of normal spread, in quarters for every other row so that many are equal, and a few
    that stand out."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * spread
    logits[::2] = (logits[::2] * 4).round() / 4
    for row in logits:
        row[torch.randint(vocab, (5,), generator=generator)] += 4 * spread
    return logits


MANY = [
    SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature in (0.0, 0.6, 1.0, 3.0)
    for top_k in (None, 1, 7, 40, 500, 3000)
    for top_p in (1.0, 0.95, 0.5, 1e-9)
    for min_p in (0.0, 0.02)
]
SWEEP = [math.nextafter(1, 0), *(i / 60 for i in range(60))]


@pytest.mark.parametrize("vocab", [1, 63, 700, 5000])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_a_uniform_number_gives_the_token_of_the_definition(vocab: int, spread: float) -> None:
    """Through every way to find the candidates: groups, bins, sorts. The two add up with different
    rounding, so the number may be off by that of some thousand additions in fp32."""
    for logits, wanted in zip(rows_of_a_model(len(MANY), vocab, spread), MANY, strict=True):
        expected = probabilities(logits[None], [wanted])[0].double()
        upto = expected.cumsum(0)
        tokens = sample(logits.expand(len(SWEEP), -1), [wanted] * len(SWEEP), SWEEP)
        for uniform, token in zip(SWEEP, tokens, strict=True):
            assert token is not None
            assert expected[token] > 0, wanted
            if wanted.temperature == 0:
                assert token == logits.argmax()
            else:
                assert upto[token] - expected[token] - 2e-5 <= uniform <= upto[token] + 2e-5, wanted


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_equal_tokens_are_kept_by_their_ids(top_p: float) -> None:
    """More of them than are sorted otherwise; the last to stay has a known number."""
    vocab, last = 4000, int(4000 * top_p) - 1
    for wanted in (SamplingSettings(top_p=top_p), SamplingSettings(top_k=last + 1)):
        tokens = sample(torch.zeros(2, vocab), [wanted] * 2, [0.0, math.nextafter(1, 0)])
        assert tokens == [0, last]


def test_a_row_is_drawn_alike_in_any_company() -> None:
    """Bit for bit: the points are the borders between tokens, where the last bit decides."""
    logits, count = rows_of_a_model(24, 50_257, 2.0), 24
    warm = [s for s in MANY if s.temperature]
    wanted = [warm[(i * 31) % len(warm)] for i in range(count)]
    uniforms = [
        border(row, s, (i * 0.618) % 1)
        for i, (row, s) in enumerate(zip(logits, wanted, strict=True))
    ]
    alone = [
        sample(row[None], [s], [u])[0] for row, s, u in zip(logits, wanted, uniforms, strict=True)
    ]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert sample(logits, wanted, uniforms) == alone
            shuffled = sample(
                logits[order], [wanted[i] for i in order], [uniforms[i] for i in order]
            )
            assert shuffled == [alone[i] for i in order]
            # Rows of a wider tensor begin elsewhere in memory.
            wide = torch.cat([torch.zeros(count, 3), logits, torch.zeros(count, 2)], dim=1)
            assert sample(wide[:, 3:-2], wanted, uniforms) == alone
    finally:
        torch.set_num_threads(threads)


def border(row: Tensor, wanted: SamplingSettings, near: float) -> float:
    """A number from which on another token is drawn than just below it."""
    low, high = 0.0, near
    [first] = sample(row[None], [wanted], [low])
    if sample(row[None], [wanted], [high])[0] == first:
        return high  # one token has all up to there
    while math.nextafter(low, 1) < high and (low + high) / 2 not in (low, high):
        middle = (low + high) / 2
        if sample(row[None], [wanted], [middle])[0] == first:
            low = middle
        else:
            high = middle
    return high


@THOROUGH
@given(rows=ROWS, data=st.data())
def test_what_other_devices_do_is_the_same(rows: list[list[float]], data: st.DataObject) -> None:
    wanted = [data.draw(SETTINGS) for _ in rows]
    # Not at a border, which whole and floating numbers round differently.
    uniforms = [data.draw(st.integers(0, 998)) / 999 + math.pi * 1e-4 for _ in rows]
    logits = torch.tensor(rows)
    chances = probabilities(logits, wanted).double().cumsum(-1)
    points = torch.tensor(uniforms, dtype=torch.float64)[:, None]
    if bool(((chances - points).abs() < 1e-5).any()):
        reject()
    assert device.sample(logits, wanted, uniforms) == sample(logits, wanted, uniforms)


@pytest.mark.parametrize("way", [sample, device.sample])
def test_rows_without_a_distribution_give_nothing_and_spoil_no_other(way) -> None:  # type: ignore[no-untyped-def]
    logits = torch.zeros(5, 6)
    logits[:, 0] = -math.inf
    logits[1, 3], logits[2, 3], logits[3] = math.nan, math.inf, -math.inf
    for wanted in (SamplingSettings(), SamplingSettings(temperature=0), SamplingSettings(top_k=2)):
        tokens = way(logits, [wanted] * 5, [0.0] * 5)
        assert tokens == [1, None, None, None, 1]


@pytest.mark.parametrize("wanted", MANY, ids=str)
def test_what_a_processor_rules_out_is_never_drawn(wanted: SamplingSettings) -> None:
    logits = torch.full((1, 900), -math.inf)
    logits[0, [70, 500, 899]] = torch.tensor([1.0, 1.0, 0.5])
    tokens = {sample(logits, [wanted], [uniform])[0] for uniform in SWEEP}
    assert tokens <= {70, 500, 899}


def test_ranked_is_a_stable_sort() -> None:
    for vocab in (1, 64, 1000):
        for logits in rows_of_a_model(6, vocab, 1.0, seed=vocab).numpy():
            expected = np.argsort(-logits, kind="stable")
            for k in (0, 1, 5, 15, 16, 400, 5000):
                assert ranked(logits, k).tolist() == expected[:k].tolist()


def test_the_normaliser_is_that_of_log_softmax() -> None:
    logits = rows_of_a_model(1, 5000, 3.0)[0]
    logits[7] = -math.inf
    ours = logits - log_normaliser(logits.numpy())
    assert torch.allclose(ours, logits.log_softmax(-1), atol=1e-5)


def test_penalties_that_count_on_equal_those_that_start_anew() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(40, (60,), generator=generator).tolist()
    wanted = SamplingSettings(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.1)
    growing, prompt = Penalties(wanted), tokens[:9]
    for end in (0, 1, 2, 10, 11, 51):  # from step to step, or several tokens at once
        logits = torch.randn(40, generator=generator)
        generated = tokens[9 : 9 + end]
        expected = penalise(logits, wanted, prompt, generated)
        assert torch.equal(growing(logits, prompt, generated), expected)


@THOROUGH
@given(
    row=st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=8),
    prompt=st.lists(st.integers(0, 7), max_size=6),
    generated=st.lists(st.integers(0, 7), max_size=10),
    repetition=st.sampled_from([1.0, 1.3, 0.8, 2.0]),
    presence=st.sampled_from([0.0, 0.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.25, -0.5]),
)
def test_penalties_equal_the_reference(
    row: list[float],
    prompt: list[int],
    generated: list[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    expected = list(row)
    for token in {*prompt, *generated}:
        factor = 1 / repetition if expected[token] > 0 else repetition
        expected[token] *= factor
    for token in set(generated):
        expected[token] -= presence + frequency * generated.count(token)
    wanted = SamplingSettings(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    before = torch.tensor(row)
    after = penalise(before, wanted, prompt, generated)
    assert torch.allclose(after, torch.tensor(expected), atol=1e-5)
    assert torch.equal(before, torch.tensor(row)), "the input must stay as it was"


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 5
    tokens = [1, 2, 2, 9, 29]
    for penalty in (0.7, 1.0, 1.2, 3.0):
        peer = transformers.RepetitionPenaltyLogitsProcessor(penalty)
        theirs = peer(torch.tensor([tokens]), logits[None].clone())[0]
        wanted = SamplingSettings(repetition_penalty=penalty)
        assert torch.equal(penalise(logits, wanted, tokens[:2], tokens[2:]), theirs)


def test_settings_know_whether_they_penalise() -> None:
    assert not SamplingSettings(temperature=0.3).penalises
    for field in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert SamplingSettings(**{field: 0.5}).penalises  # type: ignore[arg-type]


def test_a_bias_is_added_to_its_tokens_alone() -> None:
    settings = SamplingSettings(logit_bias=((2, 1.5), (0, -100.0)))
    changed = LogitBias(settings)(torch.tensor([1.0, 2.0, 3.0, float("-inf")]), [], [])
    assert changed.tolist() == [-99.0, 2.0, 4.5, float("-inf")]


def test_a_bias_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="logit_bias"):
        SamplingSettings(logit_bias=((2, math.nan),))
