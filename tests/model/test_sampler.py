"""The sampler: rows of one step, each with its own processors, settings and log-probabilities."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint import Base
from model.engine.request import (
    Constraint,
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
    TokenLogprob,
)
from model.engine.sampler import Sampler
from model.engine.sequence import Chunk, TokenSequence
from model.sampling import SamplingSettings, sample
from model.tokenizer import Tokenizer
from model.transformer import Transformer

WANTS = [
    Generate(9, SamplingSettings(temperature=0), logprobs=2),
    Generate(9, SamplingSettings(seed=1)),
    Generate(9, SamplingSettings(temperature=0.8, top_k=40, top_p=0.9, seed=2), logprobs=0),
    Generate(9, SamplingSettings(top_p=0.9, seed=3), logprobs=5),
    Generate(9, SamplingSettings(temperature=0, repetition_penalty=1.4), logprobs=1),
    Generate(9, SamplingSettings(seed=4, presence_penalty=0.5, frequency_penalty=0.5)),
]


@pytest.fixture
def base(config: Architecture, model: Transformer, tokenizer: Tokenizer) -> Base:
    end = (tokenizer.end_token,)
    return Base(Path(), "", "generate", config, model, tokenizer, end, None, {})


def sequence(sampler: Sampler, name: str, want: Generate) -> TokenSequence:
    result = TokenSequence(Request(name, (1, 2, 3), want), 0.0)
    sampler.prepare(result)
    return result


def draw(sampler: Sampler, sequences: list[TokenSequence], logits: Tensor) -> list[list[Event]]:
    chunks = [Chunk(each, len(each.tokens) - 1, 1) for each in sequences]
    result = sampler.draw(chunks, logits.clone())
    assert [sequence for sequence, _ in result] == sequences
    return [events for _, events in result]


def logits_of_steps(steps: int, rows: int, vocab: int) -> Tensor:
    return torch.randn(steps, rows, vocab, generator=torch.Generator().manual_seed(0)) * 2


def logprobs(events: list[Event]) -> list[TokenLogprob]:
    return [entry for event in events if isinstance(event, Text) for entry in event.logprobs]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_gives_what_each_row_gives_alone(base: Base, threads: int) -> None:
    """Tokens, penalties that build up, and log-probabilities to the last bit."""
    sampler, before = Sampler(base), torch.get_num_threads()
    logits = logits_of_steps(6, len(WANTS), 261)
    alone = []
    for row, want in enumerate(WANTS):
        single = sequence(sampler, "alone", want)
        alone.append([draw(sampler, [single], step[row : row + 1])[0] for step in logits])
    torch.set_num_threads(threads)
    try:
        together = [sequence(sampler, str(row), want) for row, want in enumerate(WANTS)][::-1]
        for number, step in enumerate(logits):
            events = draw(sampler, together, step.flip(0))[::-1]
            assert events == [of_row[number] for of_row in alone]
    finally:
        torch.set_num_threads(before)


def test_logprobs_are_of_the_logits_before_the_processors(base: Base) -> None:
    """Also where the row's processors change them, and where others did not ask."""
    sampler = Sampler(base)
    want = Generate(9, SamplingSettings(temperature=0, repetition_penalty=1e6), logprobs=3)
    rows = [sequence(sampler, "a", want), sequence(sampler, "b", WANTS[1])]
    logits = logits_of_steps(1, 2, 261)[0]
    logits[0, [1, 2, 3]] = torch.tensor([20.0, 19.0, 18.0])  # the prompt: penalised away
    expected = logits[0].log_softmax(-1)
    asked, silent = draw(sampler, rows, logits)
    assert logprobs(silent) == []
    [entry] = logprobs(asked) or rows[0].logprobs
    assert entry.token not in (1, 2, 3)
    assert [token for token, _, _ in entry.top] == [1, 2, 3]
    assert entry.logprob == pytest.approx(float(expected[entry.token]), abs=1e-5)
    assert [value for *_, value in entry.top] == pytest.approx(expected[[1, 2, 3]].tolist())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_usable_logits_fails_alone(base: Base, bad: float) -> None:
    sampler = Sampler(base)
    logits = logits_of_steps(1, len(WANTS), 261)[0]
    expected = draw(sampler, [sequence(sampler, "x", want) for want in WANTS], logits)
    logits[2, 100] = bad
    rows = [sequence(sampler, "x", want) for want in WANTS]
    events = draw(sampler, rows, logits)
    assert events.pop(2) == [Failed("internal", "the network gave no usable logits")]
    assert rows[2].generated == 0
    expected.pop(2)
    assert events == expected


def test_processors_run_in_order_and_may_write_or_return(base: Base) -> None:
    def only_a(logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        assert (list(prompt), list(generated)) == ([1, 2, 3], [])
        return torch.full_like(logits, -math.inf).index_fill(0, torch.tensor([97]), 0.0)

    def then_b(logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        assert logits[97] == 0
        logits[98] = 1.0
        return logits

    sampler = Sampler(base)
    rows = [sequence(sampler, str(i), Generate(1, SamplingSettings(top_k=1))) for i in range(4)]
    rows[0].processors = [only_a]
    rows[1].processors = [only_a, then_b]
    rows[2].processors = [lambda logits, prompt, generated: logits.fill_(-math.inf)]
    logits = torch.zeros(4, 261)
    logits[:, 99] = 5.0
    events = draw(sampler, rows, logits)
    assert [row.tokens[3:] for row in rows] == [[97], [98], [], [99]]
    assert isinstance(events[2][-1], Failed)
    assert all(isinstance(events[row][-1], Finished) for row in (0, 1, 3))


def test_half_precision_and_rows_that_are_no_tokens(base: Base) -> None:
    sampler = Sampler(base)
    rows = [sequence(sampler, str(i), want) for i, want in enumerate(WANTS)]
    logits = logits_of_steps(1, len(WANTS), 300)[0]
    logits[:, 261:] = 50.0
    logits[4, 299] = math.nan
    for _ in range(3):
        draw(sampler, rows, logits.bfloat16())
    assert all(row.generated == 3 and max(row.tokens) < 261 for row in rows)


BAD = Generate(9, SamplingSettings(seed=8), constraint=Constraint("regex", "[0-9]{30}"))


def break_one(fault: str, sampler: Sampler, row: TokenSequence, patch: pytest.MonkeyPatch) -> None:
    """Have the treatment of `row` raise an error, and that of no other."""

    def broken(*args: object) -> Any:
        raise KeyError("as of a bug")

    assert BAD.constraint is not None
    constraints = sampler.constraints
    make, mask, matcher = constraints.matcher, constraints.mask, constraints.matcher(BAD.constraint)
    if fault == "processor":
        row.processors = [broken]
    elif fault == "text":
        patch.setattr(row.text, "push", broken)
    elif fault == "matcher":
        patch.setattr(
            constraints, "matcher", lambda c: broken() if c is BAD.constraint else make(c)
        )
    elif fault == "mask":
        row.matcher = matcher
        patch.setattr(
            constraints,
            "mask",
            lambda m, g: broken() if matcher in dict(m).values() else mask(m, g),
        )
    elif fault == "consume":
        row.matcher = matcher
        patch.setattr(matcher, "consume", broken)
    else:
        patch.setattr(
            "model.engine.sampler.sample",
            lambda g, s, u: broken() if BAD.sampling in s else sample(g, s, u),
        )


@pytest.mark.parametrize("fault", ["processor", "text", "matcher", "mask", "consume", "sample"])
def test_a_row_that_cannot_be_treated_fails_alone(
    base: Base, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others, one of them with a constraint as well, get what they get without it."""
    sampler = Sampler(base)
    constrained = Generate(9, SamplingSettings(seed=9), constraint=Constraint("regex", "[a-z]{30}"))
    wants = [*WANTS, constrained]
    logits = logits_of_steps(3, len(wants) + 1, 261)
    without = [sequence(sampler, str(row), want) for row, want in enumerate(wants)]
    expected = [draw(sampler, without, step[1:]) for step in logits]
    rows = [sequence(sampler, str(row), want) for row, want in enumerate([BAD, *wants])]
    break_one(fault, sampler, rows[0], monkeypatch)
    bad, *events = draw(sampler, rows, logits[0])
    assert bad == [Failed("internal", "drawing a token failed: KeyError")]
    assert [events, *(draw(sampler, rows[1:], step[1:]) for step in logits[1:])] == expected
