"""The scheduler by itself: order, budget, room in the cache. No network is computed."""

import time

import pytest

from model.engine.blocks import BlockPool
from model.engine.request import Classify, Embed, Generate, Request
from model.engine.scheduler import Scheduler
from model.engine.sequence import Chunk, TokenSequence


def sequence(
    name: str,
    length: int,
    *,
    adapter: str | None = None,
    first: int = 0,
    client: str = "",
    priority: int = 0,
    want: Generate | Classify | Embed | None = None,
) -> TokenSequence:
    """A request whose prompt is shared with no other, unless they have the same `first` token."""
    tokens = (first or hash(name) % 10**6, *range(1, length))
    want = want or Generate(50)
    request = Request(name, tokens, want, adapter, client=client, priority=priority)
    return TokenSequence(request, 0.0)


def scheduler(blocks: int = 64, slots: int = 4, step_tokens: int = 64) -> Scheduler:
    return Scheduler(BlockPool(blocks), slots, step_tokens)


def step(own: Scheduler) -> dict[str, int]:
    """Do a step as the engine does: a sequence at its end gets a token. Tokens by request."""
    chunks = own.schedule()
    ends = [chunk for chunk in chunks if chunk.completes]
    own.computed(chunks)
    for chunk in ends:
        chunk.sequence.tokens.append(7)
    return lengths(chunks)


def lengths(chunks: list[Chunk]) -> dict[str, int]:
    assert all(chunk.length > 0 for chunk in chunks)
    return {chunk.sequence.request.id: chunk.length for chunk in chunks}


def test_a_step_keeps_its_budget_and_decoding_comes_first() -> None:
    own = scheduler(step_tokens=32)
    own.add(sequence("a", 10))
    assert step(own) == {"a": 10}
    own.add(sequence("b", 31))
    own.add(sequence("c", 100))
    assert step(own) == {"a": 1, "b": 7, "c": 7}  # a quarter of what is left
    assert step(own) == {"a": 1, "b": 7, "c": 7}


def test_a_short_prompt_passes_the_long_ones_and_the_oldest_keeps_a_quarter() -> None:
    own = scheduler(blocks=300, slots=8, step_tokens=64)
    for name in ("old", "long", "longer"):
        own.add(sequence(name, 900 if name == "old" else 1000))
    assert step(own) == {"old": 16, "long": 16, "longer": 16}
    own.add(sequence("short", 40))
    assert step(own) == {"old": 16, "short": 40, "long": 8}
    old, steps = own.running[0], 2
    while old.uncached > 1:
        before = old.uncached
        assert sum(step(own).values()) <= 64
        assert before - old.uncached >= min(15, before - 1)
        steps += 1
    assert steps <= 900 // 15 + 1


def test_a_long_prompt_gets_whole_steps_when_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scheduler(blocks=300, step_tokens=64)
    own.add(sequence("old", 900))
    assert step(own) == {"old": 64}
    own.add(sequence("new", 10))
    assert step(own) == {"old": 16, "new": 10}
    own.remove(own.running[1])
    assert step(own) == {"old": 16}  # another may come
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    assert step(own) == {"old": 64}


def test_a_prompt_that_fits_is_not_cut() -> None:
    own = scheduler(step_tokens=64)
    for name, length in (("a", 30), ("b", 28), ("c", 20)):
        own.add(sequence(name, length))
    assert step(own) == {"a": 30, "c": 20, "b": 14}


def test_sequences_enter_in_the_order_of_arrival_while_slots_last() -> None:
    own = scheduler(slots=2)
    for name in "abc":
        own.add(sequence(name, 5))
    own.add(sequence("probe", 1), first=True)
    assert step(own) == {"probe": 1, "a": 5}
    own.remove(own.running[0])
    assert step(own) == {"a": 1, "b": 5}


def test_who_does_not_fit_waits_and_nobody_passes() -> None:
    own = scheduler(blocks=8)
    own.add(sequence("a", 64))  # 4 blocks
    own.add(sequence("b", 64))  # 4 more, and none would be left to grow
    own.add(sequence("c", 5))
    assert step(own) == {"a": 64}
    assert [s.request.id for s in own.waiting] == ["b", "c"]
    own.remove(own.running[0])
    assert list(step(own)) == ["b", "c"]


def test_when_the_cache_is_full_the_newest_makes_room_and_comes_back() -> None:
    own = scheduler(blocks=4, step_tokens=64)
    a, b = sequence("a", 14), sequence("b", 15)
    own.add(a)
    own.add(b)
    own.add(sequence("c", 60))
    seen: list[dict[str, int]] = []
    while own.preemptions == 0:
        seen.append(step(own))
        assert len(seen) < 100
    assert not b.running
    assert b.blocks == []
    assert [s.request.id for s in own._turns if not s.running] == ["b", "c"]
    assert a.running
    own.remove(a)
    tokens = list(b.tokens)
    assert sum(step(own).values()) <= len(tokens)  # some of its blocks may still be there
    assert b.tokens == [*tokens, 7]
    own.remove(b)
    own.remove(next(iter(own.waiting)))
    assert own.pool.free == 4


def test_a_lone_sequence_can_use_the_whole_cache() -> None:
    own = scheduler(blocks=4, step_tokens=16)
    alone = sequence("a", 20)
    own.add(alone)
    while len(alone.tokens) < 64:
        assert step(own)
    assert own.preemptions == 0
    assert own.pool.free == 0


def test_a_beginning_that_is_there_is_not_computed_again() -> None:
    own = scheduler()
    own.add(sequence("a", 40, first=5))
    step(own)
    own.add(sequence("b", 50, first=5))
    own.add(sequence("other adapter", 50, first=5, adapter="spam"))
    own.add(sequence("other text", 50, first=6))
    scheduled = step(own)
    assert scheduled["b"] == 50 - 32
    own.remove(own.running[0])
    b = own.running[0]
    assert (b.reused, b.request.id) == (32, "b")
    assert [s.reused for s in own.running[1:]] == [0, 0]


def test_the_last_token_is_always_computed() -> None:
    own = scheduler()
    own.add(sequence("a", 32, first=5))
    step(own)
    own.add(sequence("b", 32, first=5))
    assert step(own)["b"] == 16


def test_blocks_of_generated_text_are_found_too() -> None:
    own = scheduler(slots=1)
    a = sequence("a", 10, first=5)
    own.add(a)
    while len(a.tokens) < 40:
        step(own)
    own.remove(a)
    follow = TokenSequence(Request("b", tuple(a.tokens), Generate(5)), 0.0)
    own.add(follow)
    assert step(own) == {"b": 8}
    assert follow.reused == 32


def test_what_is_being_computed_is_waited_for() -> None:
    own = scheduler(slots=8, step_tokens=32)
    for name in "abc":
        own.add(sequence(name, 60, first=5))
    own.add(sequence("other", 20))
    while own.waiting:
        assert set(step(own)) <= {"a", "other"}
        own.schedule()
    assert [s.reused for s in own.running] == [0, 0, 48, 48]


def test_who_waits_for_a_beginning_goes_on_when_it_is_cancelled() -> None:
    own = scheduler(step_tokens=32)
    a, b = sequence("a", 60, first=5), sequence("b", 60, first=5)
    own.add(a)
    own.add(b)
    assert list(step(own)) == ["a"]
    own.remove(a)
    assert step(own) == {"b": 28}  # two blocks were there
    own.remove(b)
    assert own.pool.free == own.pool.blocks


def test_what_is_to_be_forgotten_is_not_given_to_others() -> None:
    own = scheduler()
    a = sequence("a", 40, first=5)
    own.add(a)
    step(own)
    own.remove(a, forget_blocks=True)
    own.add(sequence("b", 40, first=5))
    assert step(own) == {"b": 40}


@pytest.mark.parametrize("clients", [1, 3, 30])
@pytest.mark.parametrize("blocks", [6, 12, 40])
def test_everything_ends_and_every_block_comes_back(blocks: int, clients: int) -> None:
    own = scheduler(blocks=blocks, slots=5, step_tokens=24)
    waiting = [
        sequence(
            f"{i}",
            3 + 13 * i % 40,
            first=1 + i % 3,
            client=f"{i % clients}",
            priority=i % 7 // 5,
            want=Classify() if i % 4 == 3 else None,
        )
        for i in range(30)
    ]
    ends = {s.request.id: len(s.tokens) + 40 for s in waiting}
    for new in waiting:
        own.add(new)
    done: list[str] = []
    for _ in range(10_000):
        assert 0 < sum(step(own).values()) <= 24
        for s in list(own.running):
            if len(s.tokens) >= ends[s.request.id] or (s.brief and s.generated):
                own.remove(s)
                done.append(s.request.id)
        if len(done) == 30:
            break
    assert len(set(done)) == 30
    assert own.pool.free == blocks
    assert not own._being_computed
    assert not own.active
    if clients == 1:
        assert (own.preemptions > 0) == (blocks < 20)


def test_a_forced_stretch_is_computed_like_a_short_prompt_and_no_stream_stalls() -> None:
    own = scheduler(blocks=300, slots=4, step_tokens=32)
    for name in ("a", "b"):
        own.add(sequence(name, 8))
    first = own.schedule()
    own.computed(first)
    for chunk in first:
        chunk.sequence.tokens.extend(range(100) if chunk.sequence.request.id == "a" else [7])
    own.drawn(first)
    own.add(sequence("prompt", 200))
    own.add(sequence("short", 5))
    given = [step(own) for _ in range(4)]
    # One token for each that decodes; then a quarter for the prompt that came first; then the rest.
    assert given[0] == {"a": 1 + 7, "b": 1, "prompt": 7, "short": 5}
    assert all(each["b"] == 1 and each["a"] > 1 and each["prompt"] >= 7 for each in given)
    assert all(sum(each.values()) <= 32 for each in given)
    a = own.running[0]
    own.preempt(a)
    assert not a.decodes  # all of it is computed again, as a prompt


def test_a_short_stretch_takes_one_step() -> None:
    own = scheduler(step_tokens=32)
    own.add(sequence("a", 8))
    first = own.schedule()
    own.computed(first)
    first[0].sequence.tokens.extend(range(9))
    own.drawn(first)
    assert step(own) == {"a": 9}
    assert own.running[0].uncached == 1


def computed(own: Scheduler, steps: int) -> dict[str, int]:
    """Tokens that were computed for each in so many steps."""
    found: dict[str, int] = {}
    for _ in range(steps):
        for name, length in step(own).items():
            found[name] = found.get(name, 0) + length
    return found


def test_a_newcomer_has_a_part_at_once_and_nothing_is_computed_twice() -> None:
    own = scheduler(blocks=200, slots=4)
    for i in range(20):
        own.add(sequence(f"a{i}", 5, client="a"))
    given = computed(own, 5)
    assert set(given) == {"a0", "a1", "a2", "a3"}
    paused = own.running[3]
    blocks = list(paused.blocks)
    own.add(sequence("b", 3, client="b"))
    before = len(paused.tokens)
    for _ in range(4):
        scheduled = step(own)
        assert set(scheduled) == {"a0", "a1", "a2", "b"}
    assert (paused.running, paused.blocks, len(paused.tokens)) == (True, blocks, before)
    assert [each in own.active for each in own.running] == [True, True, True, False, True]
    own.remove(own.running[-1])
    assert step(own)["a3"] == 1  # one token: it goes on where it was
    assert own.preemptions == 0


def test_what_ends_with_one_step_needs_no_slot() -> None:
    own = scheduler(blocks=200, slots=2, step_tokens=16)
    for i in range(8):
        own.add(sequence(f"a{i}", 3, client="a"))
    step(own)
    for name, want in (("label", Classify()), ("embedding", Embed()), ("token", Generate(1))):
        own.add(sequence(name, 4, client="a", want=want))
    assert step(own) == {"a0": 1, "a1": 1, "label": 4, "embedding": 4, "token": 4}


def test_one_that_takes_many_steps_holds_back_no_other_label() -> None:
    own = scheduler(blocks=600, slots=2, step_tokens=16)
    for i in range(3):
        own.add(sequence(f"long{i}", 2000, client="a", want=Classify()))
    step(own)
    own.add(sequence("short", 4, client="b", want=Classify()))
    assert step(own)["short"] == 4


def test_even_where_every_slot_is_taken_a_label_has_a_token() -> None:
    own = scheduler(blocks=200, slots=4, step_tokens=4)
    for i in range(4):
        own.add(sequence(f"a{i}", 1))
    assert len(step(own)) == 4
    own.add(sequence("label", 2, want=Classify()))
    assert step(own)["label"] == 1
    assert step(own)["label"] == 1


def test_prompts_of_two_clients_share_a_step() -> None:
    own = scheduler(blocks=300, slots=8, step_tokens=64)
    for i in range(4):
        own.add(sequence(f"a{i}", 20, client="a"))
    own.add(sequence("b", 31, client="b"))
    given = step(own)
    assert given["b"] == 31
    assert sum(given.values()) == 64


def test_a_short_prompt_gets_what_a_long_one_of_another_cannot_use() -> None:
    own = scheduler(blocks=300, slots=8, step_tokens=64)
    own.add(sequence("long", 900, client="a"))
    own.add(sequence("short", 40, client="b"))
    assert step(own) == {"long": 16, "short": 40}


def observed(own: Scheduler, decoding: int, tokens: int, seconds: float, times: int = 60) -> None:
    """Steps with so many sequences that decode, and one prompt of so many tokens, took so long."""
    chunks = [Chunk(sequence(f"{i}", 1), 0, 1) for i in range(decoding)]
    if tokens:
        chunks.append(Chunk(sequence("prompt", tokens), 0, tokens))
    for _ in range(times):
        own.prompts.observe(chunks, seconds)


def test_a_long_prompt_follows_the_measured_time_of_steps() -> None:
    own = scheduler(blocks=600, slots=8, step_tokens=64)
    observed(own, 1, 0, 0.002)  # 1 ms, and 1 ms a token
    observed(own, 8, 0, 0.009)
    observed(own, 0, 40, 0.041)
    own.add(sequence("old", 900))
    own.add(sequence("short", 8))
    assert step(own) == {"old": 10, "short": 8}  # 10 ms
    for i in range(4):
        own.add(sequence(f"d{i}", 3))
    step(own)
    assert step(own)["old"] == 10
    observed(own, 5, 0, 0.0225, 500)
    observed(own, 5, 40, 0.0425, 500)  # half a millisecond a token
    # As long as those that decode take, five of them: 22.5 ms are 45 tokens.
    assert step(own)["old"] == pytest.approx(45, abs=1)
    # But never what a shorter one could have.
    own.add(sequence("new", 40))
    given = step(own)
    assert given["new"] == 40
    assert given["old"] == 64 - 40 - 5


def test_one_slow_step_changes_little() -> None:
    own = scheduler(blocks=600, slots=8, step_tokens=64)
    observed(own, 1, 0, 0.002)
    observed(own, 0, 40, 0.041)
    own.add(sequence("old", 900))
    own.add(sequence("short", 8))
    observed(own, 0, 40, 5.0, times=1)
    assert step(own)["old"] >= 8


def test_in_a_full_cache_who_has_more_than_a_share_makes_room() -> None:
    own = scheduler(blocks=20, slots=8, step_tokens=64)
    for i in range(3):
        own.add(sequence(f"a{i}", 79, client="a"))
    step(own)
    assert len(own.running) == 3
    own.add(sequence("b", 40, client="b"))
    assert "b" in step(own)
    # The client that made room does not take it back.
    assert computed(own, 10)["b"] >= 10
    assert [each.request.id for each in own.running] == ["a0", "a1", "b"]
    assert own.preemptions == 1


def test_within_its_share_a_client_passes_one_that_found_no_room() -> None:
    own = scheduler(blocks=12, slots=8, step_tokens=64)
    own.add(sequence("a", 60, client="a"))
    step(own)
    own.add(sequence("too long", 150, client="a"))
    own.add(sequence("behind", 10, client="a"))
    own.add(sequence("b", 20, client="b"))
    given = step(own)
    assert set(given) == {"a", "b"}


def test_the_more_urgent_takes_the_blocks_of_the_less_urgent() -> None:
    own = scheduler(blocks=8, slots=8, step_tokens=128)
    own.add(sequence("idle", 100))
    step(own)
    own.add(sequence("urgent", 60, priority=1))
    assert set(step(own)) == {"urgent"}
    assert own.preemptions == 1


def test_nobody_waits_for_what_one_that_pauses_was_to_compute() -> None:
    own = scheduler(blocks=600, slots=1, step_tokens=16)
    own.add(sequence("slow", 400, first=5))
    step(own)
    own.add(sequence("other", 300, priority=1))
    assert set(step(own)) == {"other"}
    own.add(sequence("urgent", 300, first=5, priority=2))
    assert set(step(own)) == {"urgent"}
