"""Which block of the cache belongs to whom, and which tokens are in it.

A full block is known by the hash of what its keys and values depend on: the adapter, and all tokens
from the beginning of the sequence to the end of the block. A sequence that begins with the same
tokens under the same adapter takes the block over instead of computing it again. A block that
nobody uses any more keeps what is in it until its memory is needed, the least recently used first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice, takewhile

from model.kv_cache import BLOCK_TOKENS

BlockHash = bytes
"""Of an adapter's name and all tokens up to the end of a block."""


def root_hash(adapter: str | None) -> BlockHash:
    """What precedes the first block of a sequence."""
    # The name of a directory may be no valid Unicode.
    name = b"base" if adapter is None else b"adapter " + adapter.encode(errors="surrogatepass")
    return _hash(name)


def block_hashes(parent: BlockHash, tokens: Sequence[int]) -> list[BlockHash]:
    """Hashes of the full blocks of `tokens`, which follow the block `parent`."""
    hashes = []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        parent = _hash(parent + array("q", tokens[start : start + BLOCK_TOKENS]).tobytes())
        hashes.append(parent)
    return hashes


def _hash(data: bytes) -> BlockHash:
    return hashlib.blake2b(data, digest_size=16).digest()


class BlockPool:
    """The blocks of one cache.

    Args:
        blocks: how many there are.
        reuse: whether full blocks are found again; without, every block is just memory.
    """

    def __init__(self, blocks: int, *, reuse: bool = True) -> None:
        self.blocks = blocks
        self.reuse = reuse
        self._users = [0] * blocks
        # Blocks without users, in the order in which they are to be taken; a set with an order.
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._hash_of: dict[int, BlockHash] = {}
        self._block_of: dict[BlockHash, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody uses, whether or not something is in them."""
        return len(self._idle)

    def empty(self, most: int) -> int:
        """How many free blocks have nothing in them, counted up to `most`."""
        # They are the first to be taken.
        first = islice(self._idle, most)
        return sum(1 for _ in takewhile(lambda block: block not in self._hash_of, first))

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks with the first of `hashes`, up to the first that is not there."""
        found = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
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

    def remember(self, block: int, block_hash: BlockHash) -> None:
        """`block` is full and computed, and others may share it."""
        # Where another block with this hash is known already, this one stays unknown.
        if self.reuse and self._block_of.setdefault(block_hash, block) == block:
            self._hash_of[block] = block_hash

    def forget(self, blocks: Sequence[int]) -> None:
        """Nobody is to find what is in `blocks`."""
        for block in blocks:
            block_hash = self._hash_of.pop(block, None)
            if block_hash is not None:
                del self._block_of[block_hash]

    def release(self, blocks: Sequence[int]) -> None:
        """Give the blocks of a sequence back, in the order in which it has them."""
        # The end first: a beginning is of use to others without its end, an end alone is not.
        for block in reversed(blocks):
            assert self._users[block] > 0, f"cache block {block} released twice"
            self._users[block] -= 1
            if self._users[block] == 0:
                self._idle[block] = None
                if block not in self._hash_of:
                    self._idle.move_to_end(block, last=False)
