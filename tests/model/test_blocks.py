"""The blocks of the cache: who uses them adds up, and a full one is found by its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine.blocks import BlockPool, block_hashes, root_hash

HASHES = block_hashes(root_hash(None), range(160))


def test_hashes_depend_on_all_tokens_before_and_on_the_adapter() -> None:
    tokens = list(range(48))
    known = block_hashes(root_hash(None), tokens)
    assert len(known) == 3
    assert known == block_hashes(root_hash(None), tokens + [5] * 15)  # only full blocks have a hash
    assert known[1:] == block_hashes(known[0], tokens[16:])  # and they can be had one by one
    changed = block_hashes(root_hash(None), [99, *tokens[1:]])
    assert not set(known) & set(changed)
    assert not set(known) & set(block_hashes(root_hash("spam"), tokens))
    assert root_hash("base") != root_hash(None)
    assert root_hash("\udc80") != root_hash("\udc81")  # as from a name that is no Unicode


def test_a_block_is_found_by_its_hash_until_its_memory_is_needed() -> None:
    pool = BlockPool(3)
    blocks = [pool.take() for _ in range(2)]
    for block, block_hash in zip(blocks, HASHES, strict=False):
        pool.remember(block, block_hash)
    pool.release(blocks)
    assert pool.free == 3
    assert pool.find(HASHES[:3]) == blocks
    assert pool.find(HASHES[1:]) == blocks[1:]
    assert pool.find([HASHES[5], HASHES[0]]) == []
    # The block with nothing in it goes first, then the end of the sequence, then its beginning.
    order = [pool.take() for _ in range(3)]
    assert order[1:] == blocks[::-1]
    assert pool.find(HASHES) == []


def test_the_least_recently_used_content_goes_first() -> None:
    pool = BlockPool(2)
    first, second = pool.take(), pool.take()
    pool.remember(first, HASHES[0])
    pool.remember(second, HASHES[1])
    pool.release([first])
    pool.release([second])
    pool.share([first])
    pool.release([first])
    assert pool.take() == second
    assert pool.find(HASHES[:1]) == [first]


def test_a_shared_block_is_free_when_its_last_user_is_gone() -> None:
    pool = BlockPool(2)
    block = pool.take()
    pool.remember(block, HASHES[0])
    pool.share(pool.find(HASHES[:1]))
    pool.release([block])
    assert pool.free == 1
    pool.release([block])
    assert pool.free == 2
    with pytest.raises(AssertionError, match="twice"):
        pool.release([block])


def test_the_second_block_with_the_same_tokens_is_not_found() -> None:
    pool = BlockPool(2)
    first, second = pool.take(), pool.take()
    pool.remember(first, HASHES[0])
    pool.remember(second, HASHES[0])
    assert pool.find(HASHES[:1]) == [first]
    pool.forget([second])
    assert pool.find(HASHES[:1]) == [first]
    pool.forget([first])
    assert pool.find(HASHES[:1]) == []


def test_without_reuse_nothing_is_found() -> None:
    pool = BlockPool(1, reuse=False)
    pool.remember(pool.take(), HASHES[0])
    assert pool.find(HASHES[:1]) == []


ACTIONS = st.sampled_from(["take", "share", "remember", "forget", "release"])


@given(st.lists(st.tuples(ACTIONS, st.integers(0, 9)), max_size=40))
def test_whatever_happens_users_and_free_blocks_add_up(actions: list[tuple[str, int]]) -> None:
    pool = BlockPool(4)
    held: list[int] = []  # one entry for each use
    for action, number in actions:
        if action == "take" and pool.free:
            block = pool.take()
            assert block not in held
            held.append(block)
        elif action == "share":
            found = pool.find(HASHES[number : number + 1])
            pool.share(found)
            held += found
        elif action == "remember" and held:
            pool.remember(held[number % len(held)], HASHES[number])
        elif action == "forget" and held:
            pool.forget(held[:1])
        elif action == "release" and held:
            pool.release([held.pop(number % len(held))])
        assert pool.free == 4 - len(set(held))
        assert pool.empty(9) == sum(block not in pool._hash_of for block in pool._idle)
    pool.release(held)
    assert sorted(pool.take() for _ in range(4)) == [0, 1, 2, 3]
