"""Which block of the cache belongs to whom, and which tokens are in it.

A full block is known by what its keys and values depend on: the adapter, and all tokens from the
beginning of the sequence to the end of the block. A sequence that begins with the same tokens under
the same adapter takes the block over instead of computing it. A block that nobody uses any more
keeps its content until its memory is needed, the least recently used first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from model.kv_cache import BLOCK_TOKENS

Content = bytes
"""Digest of an adapter's name and of all tokens up to the end of a block."""


def root(adapter: str | None) -> Content:
    """What stands before the first block of a sequence."""
    return _digest(b"base" if adapter is None else b"adapter " + adapter.encode())


def contents(parent: Content, tokens: Sequence[int]) -> list[Content]:
    """The contents of the full blocks of `tokens`, which follow the block `parent`."""
    result = []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        parent = _digest(parent + array("q", tokens[start : start + BLOCK_TOKENS]).tobytes())
        result.append(parent)
    return result


def _digest(data: bytes) -> Content:
    return hashlib.blake2b(data, digest_size=16).digest()


class BlockPool:
    """The blocks of one cache.

    Args:
        blocks: how many there are.
        reuse: whether contents are found again; without, every block is just memory.
    """

    def __init__(self, blocks: int, *, reuse: bool = True) -> None:
        self.blocks = blocks
        self.reuse = reuse
        self._users = [0] * blocks
        # Blocks without users, in the order in which they are to be taken; a set with an order.
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._content: dict[int, Content] = {}
        self._of_content: dict[Content, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody uses, whether or not something is in them."""
        return len(self._idle)

    def find(self, wanted: Sequence[Content]) -> list[int]:
        """The blocks with the first contents of `wanted`, as far as they are there."""
        found = []
        for content in wanted:
            block = self._of_content.get(content)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` nobody uses."""
        return sum(block in self._idle for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """Use `blocks`, which `find` gave."""
        for block in blocks:
            self._users[block] += 1
            self._idle.pop(block, None)

    def take(self) -> int:
        """A block of one's own; what was in it is lost. Asking when none is free is a bug."""
        block, _ = self._idle.popitem(last=False)
        self.forget([block])
        self._users[block] = 1
        return block

    def remember(self, block: int, content: Content) -> None:
        """`block` is full and computed, and others may share it."""
        # Where another block has the same content already, this one stays nameless.
        if self.reuse and self._of_content.setdefault(content, block) == block:
            self._content[block] = content

    def forget(self, blocks: Sequence[int]) -> None:
        """Nobody is to find what is in `blocks`."""
        for block in blocks:
            content = self._content.pop(block, None)
            if content is not None:
                del self._of_content[content]

    def release(self, blocks: Sequence[int]) -> None:
        """Give the blocks of a sequence back, in the order in which it has them."""
        # The end first: a beginning without its end is of use to others, an end alone is not.
        for block in reversed(blocks):
            assert self._users[block] > 0, f"cache block {block} released twice"
            self._users[block] -= 1
            if self._users[block] == 0:
                self._idle[block] = None
                if block not in self._content:
                    self._idle.move_to_end(block, last=False)
