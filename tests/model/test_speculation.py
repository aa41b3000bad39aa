"""Drafts by themselves: where they come from, and when they are worth their rows."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from model.checkpoint import Base
from model.cpu import library
from model.engine.blocks import BlockPool
from model.engine.engine import Engine
from model.engine.request import Generate, Request
from model.engine.scheduler import Scheduler
from model.engine.sequence import TokenSequence
from model.engine.settings import EngineSettings
from model.engine.speculation import LONGEST, Lookup, Speculation, StepCost
from tests.model.engines import exact_adapters, exact_base, random_base
from tests.model.test_determinism import GPT2


def expected(tokens: Sequence[int]) -> list[int]:
    """By looking everywhere: the last of the places with most of the same tokens before them."""
    best, longest = 0, 2
    for place in range(len(tokens) - 1, 2, -1):
        length = 0
        while length < min(16, place) and tokens[place - length - 1] == tokens[-length - 1]:
            length += 1
        if length > longest:
            best, longest = place, length
    return [tokens[best + i % (len(tokens) - best)] for i in range(LONGEST)] if best else []


@pytest.mark.parametrize("letters", [2, 4, 12])
def test_what_followed_the_longest_suffix_is_found(letters: int) -> None:
    """However many tokens come at once; `find` is called for the prompt, then as it grows."""
    draws = random.Random(letters)
    found = 0
    for _ in range(60):
        # Few enough places that all of them are compared.
        text = [draws.randrange(letters) for _ in range(draws.randint(1, 16))] * 2
        tokens, lookup = text[: draws.randint(0, len(text))], Lookup()
        while len(tokens) < 40:
            guess = lookup.find(tokens)
            if len(set(map(tuple, zip(tokens, tokens[1:], tokens[2:], strict=False)))) > 1:
                assert guess == expected(tokens)
            found += bool(guess)
            tokens += [draws.randrange(letters) for _ in range(draws.randint(1, 4))]
    assert found > 20


def test_a_long_prompt_is_read_in_parts() -> None:
    tokens = [*range(10_000), 5, 6, 7]
    lookup = Lookup()
    assert [lookup.find(tokens), lookup.find(tokens)] == [[], []]
    assert lookup.find(tokens) == list(range(8, 8 + LONGEST))


def test_a_lookup_learns_how_much_holds() -> None:
    """Also of guesses that no step computed: they are compared with what came."""
    text = list(range(100))
    right, wrong, apart = Lookup(), Lookup(), Lookup()
    for length in range(5, 60):
        right.find([*text, *text[:length]])
        wrong.find([*text, *(text[:length] if length % 4 else [*text[: length - 1], 99])])
        apart.find([*text, *(200 + i for i in range(length))])
    assert right.chance > 0.9
    assert wrong.chance < right.chance
    assert apart.chance == Lookup().chance


def test_useless_drafts_are_made_ever_more_rarely() -> None:
    """And at once again when what is guessed comes true."""
    speculation, lookup = planned(1.0, 1e-6, 1), Lookup()  # rows are for nothing
    text = list(range(50))
    tokens, made = [*text, 100], []
    for number in range(600):  # three tokens of the text, then another
        tokens += text[20:23]
        made += [number] if speculation.draft(lookup, tokens, 64) else []
        tokens += [1000 + number, 2000 + number]
        assert speculation.draft(lookup, tokens, 64) == []
    gaps = [b - a for a, b in pairwise(made)]
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1]) == (1, 14)  # more than 2 tokens, and than 64, of 5 each
    assert lookup.rests
    tokens += text[20:23]
    assert speculation.draft(lookup, tokens, 64) == []
    tokens.append(1599)  # what was guessed, though no step computed it
    assert speculation.draft(lookup, tokens, 64)[0] == 2599


@pytest.mark.parametrize("a", [0.0, 0.002, 1.0])
@pytest.mark.parametrize("share", [0.001, 0.2, 1.0])
def test_the_cost_of_a_row_is_found(a: float, share: float) -> None:
    """Whatever it was taken for, and in spite of steps that something else held up."""
    draws, cost = random.Random(0), StepCost()
    b = share * (a or 1.0)
    for _ in range(500):
        rows = draws.choice((1, 1, 1, 4, 9, 17))
        held_up = 50 if draws.random() < 0.01 else 1
        cost.observe(rows, (a + b * rows) * draws.uniform(0.95, 1.05) * held_up)
    assert cost.seconds(9) == pytest.approx(a + 9 * b, rel=0.2)
    assert cost.seconds(17) - cost.seconds(1) == pytest.approx(16 * b, rel=0.3, abs=0.1 * a)


def planned(a: float, b: float, rows: int) -> Speculation:
    """With steps that take a + b × rows, and one of so many rows planned."""
    result = Speculation()
    for at in range(400):
        result.cost.observe(1 + at % 20, a + b * (1 + at % 20))
    result.plan(rows, 512)
    return result


def test_a_draft_has_the_length_that_is_worth_most() -> None:
    for chance in (0.02, 0.3, 0.5, 0.7, 0.9, 0.99):
        for rows in (1, 4, 16, 64):
            for share in (0.01, 0.1, 0.3, 2.0):
                rates = {
                    length: (rows + sum(chance**i for i in range(1, length + 1)))
                    / (1 + share * (rows + length))
                    for length in range(17)
                }
                chosen = planned(1.0, share, rows).length(chance, 16)
                assert rates[chosen] == pytest.approx(max(rates.values()), rel=0.01)


def test_more_rows_and_dearer_rows_make_drafts_shorter() -> None:
    by_rows = [planned(1.0, 0.2, rows).length(0.9, 16) for rows in (1, 4, 16, 64)]
    assert by_rows[0] > 4
    assert by_rows == sorted(by_rows, reverse=True)
    assert by_rows[-1] == 0
    by_cost = [planned(1.0, share, 1).length(0.9, 16) for share in (0.01, 0.2, 1.0, 100.0)]
    assert by_cost[0] == 16
    assert by_cost == sorted(by_cost, reverse=True)
    assert by_cost[-1] == 0


class Eager(Speculation):
    """Drafts as much as it may."""

    def draft(
        self, lookup: Lookup, tokens: Sequence[int], most: int, expected: Sequence[int] = ()
    ) -> list[int]:
        length = max(0, min(most, self._most_rows - self._rows, LONGEST))
        self._rows += length
        return [3] * length


@pytest.mark.parametrize(("blocks", "step_tokens"), [(64, 24), (9, 24), (9, 512), (64, 9)])
def test_drafts_take_what_is_left(blocks: int, step_tokens: int) -> None:
    """Of the step's tokens, the cache and the request's tokens: nobody goes without for one."""

    def steps(speculation: Speculation | None) -> list[list[tuple[str, int, int]]]:
        """What is computed in each step, but for drafts: none of them holds."""
        own = Scheduler(BlockPool(blocks), 6, step_tokens, speculation)
        seen, drafted = [], 0
        for number in range(12):
            prompt = tuple((number * 50 + i) % 999 for i in range(3 + number * 7 % 30))
            want = Generate(20 + number * 7 % 60)
            own.add(TokenSequence(Request(str(number), prompt, want), 0.0))
        while own.running or own.waiting:
            chunks = own.schedule()
            assert sum(chunk.length for chunk in chunks) <= step_tokens
            own.computed(chunks)
            seen.append([(c.sequence.request.id, c.start, c.end) for c in chunks])
            ending = [chunk for chunk in chunks if chunk.completes]
            for chunk in ending:
                drafted += len(chunk.draft)
                assert len(chunk.draft) < max(1, chunk.sequence.to_come)
                chunk.sequence.tokens.append(7)
                chunk.sequence.first_result = 1.0
            own.drawn(ending)
            for chunk in ending:
                if not chunk.sequence.to_come:
                    own.remove(chunk.sequence)
        assert own.pool.free == blocks
        assert own.drafted_tokens == drafted
        assert (drafted > 50) == (speculation is not None)
        assert (own.preemptions > 0) == (blocks == 9)
        return seen

    assert steps(Eager()) == steps(None)


def test_it_is_off_where_a_row_depends_on_its_batch(base: Base) -> None:
    def speculates(of: Base, adapters: bool = False, **bounds: bool) -> bool:
        given = exact_adapters(of) if adapters else {}
        own = Engine(of, given, EngineSettings(**bounds), deliver=lambda events: None)
        return own._scheduler.speculation is not None

    kernel = library.load() is not None
    assert speculates(base) == speculates(base, adapters=True) == kernel
    assert not speculates(base, speculate=False)
    plain = random_base(64)
    assert not speculates(plain)
    plain.model.multiply_in_tiles()
    assert speculates(plain, adapters=True) == kernel
    loose = exact_adapters(plain)
    loose["spam"].lora.tile = None
    assert not Engine(plain, loose, EngineSettings(), deliver=print)._runner.exact


@pytest.fixture(scope="module")
def base() -> Base:
    return exact_base(GPT2, None)
