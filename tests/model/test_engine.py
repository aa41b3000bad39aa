"""The engine: batched equals single, and everything that enters leaves again."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Adapter, Base
from model.engine.engine import Engine
from model.engine.request import (
    Classified,
    Classify,
    Embed,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.settings import EngineSettings
from model.errors import ContextLengthError, UsageError
from model.sampling import SamplingSettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.transformer import Transformer
from tests.model.engines import prompt, random_adapter, random_base, text_of

CONTEXT = 64
GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(scope="module")
def base() -> Base:
    return random_base(CONTEXT)


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return {
        name: random_adapter(base, seed, classifies=True)
        for seed, name in enumerate(("spam", "other"))
    }


def engine(base: Base, adapters: dict[str, Adapter], **settings: int) -> Engine:
    settings.setdefault("slots", 16)
    return Engine(base, adapters, EngineSettings(**settings), deliver=lambda events: None)


def mixed_requests() -> list[Request]:
    """Requests of all kinds, with different adapters, lengths and settings."""
    requests = []
    for i in range(24):
        adapter = (None, "spam", "other")[i % 3]
        want: Generate | Classify
        if i % 4 == 3 and adapter:
            want = Classify()
        else:
            sampling = SamplingSettings(temperature=i % 2, top_k=20 if i % 5 else None, seed=i)
            want = Generate(1 + i, sampling, ignore_eos=True)
        requests.append(Request(str(i), prompt(i), want, adapter))
    return requests


def test_a_batch_gives_what_each_request_gives_alone(
    base: Base, adapters: dict[str, Adapter]
) -> None:
    requests = mixed_requests()
    together = engine(base, adapters, slots=5, step_tokens=16).run(requests)
    for request, events in zip(requests, together, strict=True):
        [alone] = engine(base, adapters, slots=1).run([request])
        assert type(events[-1]) is type(alone[-1])
        if isinstance(events[-1], Classified) and isinstance(alone[-1], Classified):
            assert events[-1].probabilities == pytest.approx(alone[-1].probabilities, abs=1e-5)
        else:
            assert text_of(events) == text_of(alone)
            assert isinstance(events[-1], Finished)
            assert events[-1].completion_tokens == request.want.max_new_tokens  # type: ignore[union-attr]


def test_greedy_text_is_that_of_the_plain_network(base: Base) -> None:
    tokens = list(prompt(5))
    with torch.no_grad():
        for _ in range(20):
            logits = base.model.logits(base.model(torch.tensor([tokens]))[0, -1])
            tokens.append(int(logits.argmax()))
    [events] = engine(base, {}, step_tokens=16).run(
        [Request("1", prompt(5), Generate(20, GREEDY, ignore_eos=True))]
    )
    new = [token for token in tokens[len(prompt(5)) :] if token != 256]
    assert text_of(events) == base.tokenizer.decode(new)


def test_an_adapter_changes_the_output_and_none_does_not(
    base: Base, adapters: dict[str, Adapter]
) -> None:
    want = Generate(20, GREEDY, ignore_eos=True)
    with_adapter, without = engine(base, adapters).run(
        [Request("a", prompt(3), want, "spam"), Request("b", prompt(3), want)]
    )
    [plain] = engine(base, {}).run([Request("b", prompt(3), want)])
    assert text_of(with_adapter) != text_of(without) == text_of(plain)


def test_a_prompt_longer_than_a_step_is_computed_in_chunks(base: Base) -> None:
    long = tuple(i % 256 for i in range(50))
    want = Generate(10, GREEDY, ignore_eos=True)
    [chunked] = engine(base, {}, slots=2, step_tokens=7).run([Request("1", long, want)])
    [whole] = engine(base, {}, slots=2, step_tokens=64).run([Request("1", long, want)])
    assert text_of(chunked) == text_of(whole)


def test_a_long_prompt_does_not_stall_those_that_decode(base: Base) -> None:
    """One token each step for the running sequence, while the other's prompt comes in chunks."""
    own = engine(base, {}, slots=2, step_tokens=4)
    want = Generate(12, GREEDY, ignore_eos=True)
    events = own.run([Request("short", (1, 2), want), Request("long", tuple(range(1, 41)), want)])
    assert isinstance(events[0][-1], Finished)
    assert isinstance(events[1][-1], Finished)
    # 12 steps for the short one, in which the other got 3 tokens a step or fewer.
    assert own.stats().steps < 12 + 40


@pytest.mark.parametrize(
    ("stop", "expected", "matched"),
    [
        (("cd",), "ab", "cd"),
        (("x", "de"), "abc", "de"),
        (("e", "cde"), "ab", "cde"),
        (("zz",), None, None),
    ],
)
def test_stop_strings_end_the_text_and_are_not_part_of_it(
    base: Base,
    monkeypatch: pytest.MonkeyPatch,
    stop: tuple[str, ...],
    expected: str | None,
    matched: str | None,
) -> None:
    fixed = iter(b"abcdefgh" * 8)
    monkeypatch.setattr("model.engine.sampler.sample", lambda logits, s, u: [next(fixed)])
    [events] = engine(base, {}).run([Request("1", (1,), Generate(8, GREEDY, stop=stop))])
    assert text_of(events) == (expected if expected is not None else "abcdefgh")
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == ("stop" if expected is not None else "length")
    assert end.stop_string == matched


def test_the_end_token_ends_a_text_unless_it_is_ignored(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ignore, text, reason, count in ((False, "a", "eos", 2), (True, "abcd", "length", 5)):
        fixed = iter([97, 256, 98, 99, 100])
        monkeypatch.setattr("model.engine.sampler.sample", lambda g, s, u, f=fixed: [next(f)])
        want = Generate(5, GREEDY, ignore_eos=ignore)
        [events] = engine(base, {}).run([Request("1", (1,), want)])
        end = events[-1]
        assert isinstance(end, Finished)
        assert (text_of(events), end.reason, end.completion_tokens) == (text, reason, count)


def test_a_character_is_never_broken(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = iter("né🎉".encode() + b"\xf0\x9f")
    monkeypatch.setattr("model.engine.sampler.sample", lambda logits, s, u: [next(fixed)])
    [events] = engine(base, {}).run([Request("1", (1,), Generate(9, GREEDY))])
    pieces = [event.text for event in events if isinstance(event, Text)]
    assert pieces == ["n", "é", "🎉", "\ufffd"]


def test_logprobs_are_those_of_the_network(base: Base) -> None:
    request = Request("1", prompt(4), Generate(1, GREEDY, ignore_eos=True, logprobs=3))
    [events] = engine(base, {}).run([request])
    [text] = [event for event in events if isinstance(event, Text)]
    [entry] = text.logprobs
    with torch.no_grad():
        hidden = base.model(torch.tensor([prompt(4)]))[0, -1]
        expected = torch.log_softmax(base.model.logits(hidden), -1)
    assert entry.logprob == pytest.approx(float(expected.max()), abs=1e-5)
    assert [token for token, _, _ in entry.top] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokens": ()}, UsageError),
        ({"adapter": "absent"}, UsageError),
        ({"want": Classify()}, UsageError),
        ({"want": Generate(0)}, UsageError),
        ({"want": Generate(4, logprobs=-1)}, UsageError),
        ({"tokens": (1, 2.5)}, UsageError),
        ({"deadline": math.nan}, UsageError),
        ({"want": Generate(CONTEXT)}, ContextLengthError),
        (
            {"tokens": (1,) * (CONTEXT + 1), "want": Classify(), "adapter": "spam"},
            ContextLengthError,
        ),
    ],
)
def test_bad_requests_are_refused_on_submission(
    base: Base, adapters: dict[str, Adapter], change: dict[str, object], error: type[Exception]
) -> None:
    fields: dict[str, object] = {"id": "1", "tokens": (1, 2), "want": Generate(4), **change}
    with pytest.raises(error):
        engine(base, adapters).submit(Request(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, 257, 2**70])
@pytest.mark.parametrize("field", ["tokens", "logit_bias"])
def test_an_id_outside_of_the_vocabulary_is_refused(base: Base, field: str, bad: int) -> None:
    """In a step with others, it would end them all."""
    own = engine(base, {})
    biased = SamplingSettings(logit_bias=((3, 1.0), (bad, -1.0)))
    wrong = {
        "tokens": Request("wrong", (1, bad, 2), Generate(4)),
        "logit_bias": Request("wrong", (1, 2), Generate(4, biased)),
    }[field]
    message = rf"{field} has the id {bad}; ids are 0 to 256"
    for want in (wrong.want, Embed()) if field == "tokens" else (wrong.want,):
        with pytest.raises(UsageError, match=message):
            own.run([Request("good", (1, 2), Generate(4)), replace(wrong, want=want)])
    assert own.stats().waiting == 0
    [events] = own.run([Request("good", (0, 256), Generate(4, GREEDY, ignore_eos=True))])
    assert isinstance(events[-1], Finished)


def test_ids_without_a_token_are_never_drawn(base: Base) -> None:
    """A tokenizer may leave gaps in its ids, for which a network has logits all the same."""
    tokenizer = Tokenizer({bytes([i]): 2 * i for i in range(256)}, PATTERN, {END_OF_TEXT: 600})
    assert tokenizer.gaps == (*range(1, 511, 2), *range(511, 600))
    config = Architecture(601, CONTEXT, n_layer=1, n_head=2, n_embd=32)
    model = Transformer(config).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    gapped = Base(Path(), "", "generate", config, model, tokenizer, (600,), None, {})
    bias = tuple((gap, 100.0) for gap in tokenizer.gaps)
    samplings = [
        SamplingSettings(temperature=100, seed=0),
        SamplingSettings(temperature=0, logit_bias=bias, repetition_penalty=2.0),
    ]
    wants = [Generate(40, sampling, ignore_eos=True, logprobs=0) for sampling in samplings]
    # A prompt may hold such an id: it has an embedding.
    answers = engine(gapped, {}).run(
        [Request(str(i), (2, 3), want) for i, want in enumerate(wants)]
    )
    for events in answers:
        tokens = [entry.token for e in events if isinstance(e, Text) for entry in e.logprobs]
        assert len(tokens) == 40
        assert not set(tokens) & set(tokenizer.gaps)


def test_a_request_id_is_unique_while_its_request_is_in_the_engine(base: Base) -> None:
    own = engine(base, {})
    want = Generate(4, GREEDY, ignore_eos=True)
    with pytest.raises(UsageError, match="id is 'a', as another's; it must be unique"):
        own.run([Request("a", (1,), want), Request("a", (2,), want)])
    own.submit(Request("a", (1,), want))
    with pytest.raises(UsageError, match="id is 'a', as another's"):
        own.run([Request("b", (1,), want), Request("a", (2,), want)])
    assert own.stats().waiting == 1
    [events] = own.run([Request("b", (1,), want)])  # `a` runs beside it, and ends
    assert isinstance(events[-1], Finished)
    [events] = own.run([Request("a", (1,), want)])
    assert isinstance(events[-1], Finished)


def test_a_full_context_can_be_used_to_its_last_token(base: Base) -> None:
    tokens = (1,) * (CONTEXT - 4)
    [events] = engine(base, {}).run([Request("1", tokens, Generate(4, GREEDY, ignore_eos=True))])
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == ("length", 4)


def test_a_row_without_usable_logits_fails_alone(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = engine(base, {})
    run = own._runner.run

    def spoil_the_second(chunks):  # type: ignore[no-untyped-def]
        output = run(chunks)
        for row, chunk in enumerate(output.generating):
            if chunk.sequence.request.id == "bad":
                with torch.inference_mode():
                    output.logits[row, 7] = float("nan")
        return output

    monkeypatch.setattr(own._runner, "run", spoil_the_second)
    want = Generate(5, SamplingSettings(seed=1), ignore_eos=True)
    good, bad = own.run([Request("good", prompt(1), want), Request("bad", prompt(2), want)])
    [alone] = engine(base, {}).run([Request("good", prompt(1), want)])
    assert text_of(good) == text_of(alone)
    assert isinstance(bad[-1], Failed)
    assert own.stats().free_blocks == own.stats().blocks


@pytest.mark.parametrize("top_p", [1e-300, 1e-46, 1e-12])
def test_a_tiny_top_p_takes_the_most_probable_token(base: Base, top_p: float) -> None:
    settings = (SamplingSettings(top_p=top_p, seed=3), GREEDY)
    wants = [Generate(12, sampling, ignore_eos=True) for sampling in settings]
    tiny, greedy = engine(base, {}).run(
        [Request(str(i), prompt(4), want) for i, want in enumerate(wants)]
    )
    assert text_of(tiny) == text_of(greedy)


def test_rows_of_the_network_that_are_no_tokens_are_never_drawn(base: Base) -> None:
    config = Architecture(300, CONTEXT, n_layer=1, n_head=2, n_embd=32)
    model = Transformer(config).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    padded = Base(Path(), "", "generate", config, model, base.tokenizer, (256,), None, {})
    want = Generate(40, SamplingSettings(temperature=100, seed=0), ignore_eos=True, logprobs=2)
    [events] = engine(padded, {}).run([Request("1", (1,), want)])
    end = events[-1]
    assert isinstance(end, Finished)
    tokens = [entry.token for e in events if isinstance(e, Text) for entry in e.logprobs]
    assert len(tokens) == end.completion_tokens == 40
    assert max(tokens) < 257


def test_penalties_reach_the_row_that_asks_for_them(base: Base) -> None:
    plain = Generate(30, GREEDY, ignore_eos=True)
    penalised = Generate(
        30, SamplingSettings(temperature=0, frequency_penalty=100.0), ignore_eos=True, logprobs=0
    )
    without, with_penalty, again = engine(base, {}).run(
        [Request("a", (5,), plain), Request("b", (5,), penalised), Request("c", (5,), plain)]
    )
    assert text_of(without) == text_of(again) != text_of(with_penalty)
    tokens = [entry.token for e in with_penalty if isinstance(e, Text) for entry in e.logprobs]
    assert len(set(tokens)) == len(tokens) == 30


def test_text_that_is_not_to_be_streamed_comes_at_the_end(base: Base) -> None:
    texts = {}
    for stream in (True, False):
        want = Generate(20, GREEDY, ignore_eos=True, logprobs=1, stream=stream)
        [events] = engine(base, {}).run([Request("1", prompt(5), want)])
        texts[stream] = [event for event in events if isinstance(event, Text)]
    assert len(texts[True]) > 10
    [whole] = texts[False]
    assert whole.text == "".join(text.text for text in texts[True])
    assert whole.logprobs == tuple(value for text in texts[True] for value in text.logprobs)
