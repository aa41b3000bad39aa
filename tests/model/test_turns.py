"""Whose turn it is: clients, then their submissions, then their sequences, by places had."""

import random
from collections import Counter
from itertools import islice

import pytest

from model.engine.request import Generate, Request
from model.engine.sequence import TokenSequence
from model.engine.turns import Turns


def sequence(
    name: str, client: str = "", submission: object = None, priority: int = 0
) -> TokenSequence:
    request = Request(name, (1,), Generate(5), client=client, priority=priority)
    return TokenSequence(request, 0.0, submission=submission)


def many(count: int, client: str, submission: object = None) -> list[TokenSequence]:
    return [sequence(f"{client}{submission or ''}-{i}", client, submission) for i in range(count)]


def turns_of(*groups: list[TokenSequence]) -> Turns:
    own = Turns()
    for group in groups:
        for each in group:
            own.add(each)
    return own


def step(own: Turns, places: int) -> list[TokenSequence]:
    """Those with a place."""
    chosen = list(islice(own, places))
    own.count(chosen)
    return chosen


def clients(chosen: list[TokenSequence]) -> Counter[str]:
    return Counter(each.request.client for each in chosen)


def test_alone_a_client_gets_its_sequences_in_order() -> None:
    own = many(6, "a")
    turns = turns_of(own)
    assert list(turns) == own
    assert [step(turns, 4) for _ in range(3)] == [own[:4]] * 3


def test_a_newcomer_has_its_turn_in_the_next_step_however_much_others_have() -> None:
    turns = turns_of(many(64, "a"))
    for _ in range(50):
        step(turns, 8)
    new = sequence("b", "b")
    turns.add(new)
    for _ in range(20):
        chosen = step(turns, 8)
        assert new in chosen
        assert clients(chosen) == {"a": 7, "b": 1}


def test_clients_share_evenly_however_many_sequences_they_have() -> None:
    turns = turns_of(many(64, "a"), many(9, "b"), many(5, "c"))
    had: Counter[str] = Counter()
    for _ in range(100):
        had += clients(step(turns, 10))
    assert max(had.values()) - min(had.values()) <= 2


def test_with_even_shares_nobody_pauses_who_has_begun() -> None:
    turns = turns_of(*(many(12, name) for name in "abcd"))
    begun = set(step(turns, 12))
    for _ in range(30):
        assert set(step(turns, 12)) == begun


def test_what_one_client_does_not_want_is_divided_among_the_others() -> None:
    turns = turns_of(many(64, "a"), many(64, "b"), many(2, "c"))
    assert clients(step(turns, 12)) == {"a": 5, "b": 5, "c": 2}


def test_more_clients_than_places_go_round() -> None:
    groups = [many(1, f"{i:02}") for i in range(12)]
    turns = turns_of(*groups)
    had: Counter[str] = Counter()
    for _ in range(30):
        had += clients(step(turns, 4))
    assert set(had.values()) == {10}


def test_saving_up_is_of_no_use_and_a_burst_is_forgotten() -> None:
    greedy, modest, saver = many(30, "greedy"), many(30, "modest"), many(1, "saver")
    turns = turns_of(greedy, modest, saver)
    for _ in range(100):
        step(turns, 10)
    # One that took little all the time is owed nothing.
    for each in many(30, "saver", "more"):
        turns.add(each)
    had: Counter[str] = Counter()
    for _ in range(30):
        had += clients(step(turns, 9))
    assert max(had.values()) - min(had.values()) <= 2
    # Once there is room for all, nobody has had anything.
    for each in list(turns):
        if each not in (greedy[0], modest[0]):
            turns.remove(each)
    turns.count(turns)
    for each in many(5, "greedy", "new") + many(5, "modest", "new"):
        turns.add(each)
    assert clients(step(turns, 6)) == {"greedy": 3, "modest": 3}


def test_the_submissions_of_a_client_share_what_it_has() -> None:
    turns = turns_of(many(64, "a", "batch"), many(20, "b"))
    for _ in range(10):
        step(turns, 8)
    single = sequence("single", "a", "single")
    turns.add(single)
    chosen = step(turns, 8)
    assert single in chosen
    assert clients(chosen) == {"a": 4, "b": 4}


def test_a_higher_priority_goes_first_whoever_has_it() -> None:
    urgent = [sequence(f"u{i}", "a", priority=3) for i in range(3)]
    turns = turns_of(many(5, "b"), urgent, many(5, "a"))
    for _ in range(4):
        chosen = step(turns, 5)
        assert chosen[:3] == urgent
        assert clients(chosen[3:]) == {"a": 1, "b": 1}
    for each in urgent:
        turns.remove(each)
    # What the urgent ones had is not counted against the others of the client.
    assert clients(step(turns, 4)) == {"a": 2, "b": 2}


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_left_out_for_one_who_has_had_more(seed: int) -> None:
    """Over random comings and goings: whoever is always left out of something gets as much as
    anybody gets, but for one place."""
    generator = random.Random(seed)
    places, names = generator.randint(1, 12), "abcde"
    turns = Turns()
    backlog = {name: many(40, name, "always") for name in names[:2]}
    for group in backlog.values():
        for each in group:
            turns.add(each)
    had: Counter[str] = Counter()
    for moment in range(400):
        if generator.random() < 0.3:
            name = generator.choice(names[2:])
            for each in many(generator.randint(1, 10), name, moment):
                turns.add(each)
        chosen = list(islice(turns, places))
        assert len(chosen) == min(places, len(turns))
        turns.count(chosen)
        for each in chosen:
            had[each.request.client] += 1
            if each.request.client not in backlog and generator.random() < 0.2:
                turns.remove(each)
    first, second = (had[name] for name in backlog)
    assert abs(first - second) <= 1
    assert all(had[name] <= min(first, second) + 1 for name in names[2:])
    for each in list(turns):
        turns.remove(each)
    assert len(turns) == 0
    assert list(turns) == []
