"""Which tokens of which sequences are computed in the next step.

A step has a budget of tokens. Running sequences that decode come first, with one token each, so
that nobody's stream stalls. The rest goes to prompts: a quarter of it to the prompt that came
first, so that none waits for ever, and what is left to those that need least, each as a whole where
it fits: a short prompt does not wait for the long ones before it. A long prompt is computed in such
small chunks as long as others come and go; once it has been alone for a second, it gets whole
steps. The tokens that a constraint forced behind a drawn one are such a short prompt.

A sequence is admitted when a slot and blocks for all of its tokens are free, in the order of
arrival. It takes over what another sequence with the same beginning has in the cache, and waits for
a while if that is being computed right now. When a running sequence needs a block and there is
none, the one that was admitted last is preempted: it gives its blocks back and returns to the head
of the line. Later its tokens are computed anew, and it goes on as if nothing had happened.

What a step has left of its budget, drafts may have, see `model.engine.speculation`. They take what
is free of the cache for that step alone: nobody waits or makes room for them. Only tokens that were
drawn count as cached, and only those can others find.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping

from model.engine.blocks import BlockHash, BlockPool, block_hashes, root_hash
from model.engine.sequence import Chunk, TokenSequence
from model.engine.speculation import LONGEST, Speculation
from model.kv_cache import BLOCK_TOKENS, blocks_for

_ALONE_SECONDS = 1.0
"""So long after the last sequence joined another, a prompt that is alone gets whole steps."""


class Scheduler:
    """Decides on each step. Knows nothing of networks.

    Args:
        pool: the blocks of the cache; enough for one sequence of a full context.
        slots: sequences that run at once.
        step_tokens: largest number of tokens in a step; at least `slots`.
        speculation: chooses drafts; without, there are none.
        begin: called with a sequence before it is admitted, possibly more than once; may add
            tokens to it.
    """

    def __init__(
        self,
        pool: BlockPool,
        slots: int,
        step_tokens: int,
        speculation: Speculation | None = None,
        begin: Callable[[TokenSequence], None] = lambda sequence: None,
    ) -> None:
        assert step_tokens >= slots, "every running sequence needs a token in every step"
        self.pool = pool
        self.slots = slots
        self.step_tokens = step_tokens
        self.speculation = speculation
        self._begin = begin
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        """In the order in which they were admitted."""
        self.preemptions = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self._being_computed: set[BlockHash] = set()  # blocks that running sequences will fill
        self._last_join = float("-inf")  # when a sequence was last admitted beside others

    def add(self, sequence: TokenSequence, *, first: bool = False) -> None:
        """Queue a sequence, at the head of the line if it is to be `first`."""
        if first:
            self.waiting.appendleft(sequence)
        else:
            self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step."""
        self._grow()
        self._admit_waiting()
        decoding = [sequence for sequence in self.running if sequence.decodes]
        prompts = [sequence for sequence in self.running if not sequence.decodes]
        budget = self.step_tokens - len(decoding)
        needs = {sequence: sequence.uncached for sequence in prompts}
        needs |= {each: each.uncached - 1 for each in decoding if each.uncached > 1}
        given = _divide(budget, needs, self._most_at_once(len(needs), budget))
        lengths = {each: given.get(each, 0) + each.decodes for each in [*decoding, *prompts]}
        chunks = [Chunk(each, each.cached, length) for each, length in lengths.items() if length]
        return chunks if self.speculation is None else self._with_drafts(chunks, self.speculation)

    def computed(self, chunks: list[Chunk]) -> None:
        """The step of `chunks` is done: their keys and values are in the cache."""
        for chunk in chunks:
            self._advance(chunk.sequence, chunk.end)

    def drawn(self, chunks: list[Chunk]) -> None:
        """Tokens came after `chunks`: cached are those of them that a draft had."""
        for chunk in chunks:
            sequence, held = chunk.sequence, chunk.held
            sequence.accepted += held
            self.accepted_tokens += held
            self._advance(sequence, chunk.end + held)
            sequence.stretch = sequence.uncached
            needed = blocks_for(len(sequence.tokens))
            self.pool.release(sequence.blocks[needed:])
            del sequence.blocks[needed:]

    def preempt(self, sequence: TokenSequence) -> None:
        """Take a running sequence's blocks away, and have it wait for others."""
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def remove(self, sequence: TokenSequence, *, forget_blocks: bool = False) -> None:
        """Take a sequence out, wherever it is, and give its blocks back.

        Args:
            forget_blocks: nobody is to use what it computed.
        """
        if not sequence.running:
            self.waiting.remove(sequence)
            return
        if forget_blocks:
            self.pool.forget(sequence.blocks)
        self._release(sequence)

    def _advance(self, sequence: TokenSequence, cached: int) -> None:
        """So many tokens of a sequence are in the cache now; others may share its full blocks."""
        before, after = sequence.cached // BLOCK_TOKENS, cached // BLOCK_TOKENS
        sequence.cached = cached
        if after > before and self.pool.reuse:
            hashes = self._hashes(sequence)
            for index in range(before, after):
                self.pool.remember(sequence.blocks[index], hashes[index])
                self._being_computed.discard(hashes[index])

    def _with_drafts(self, chunks: list[Chunk], speculation: Speculation) -> list[Chunk]:
        """The same with drafts behind those that decode, where there is room."""
        speculation.plan(sum(chunk.length for chunk in chunks), self.step_tokens)
        for at, chunk in enumerate(chunks):
            sequence, tokens = chunk.sequence, chunk.sequence.tokens
            if not (sequence.first_result and sequence.decodes and chunk.completes):
                continue
            # Who waits may find his beginning in a block that is free and not empty.
            free = self.pool.empty(blocks_for(LONGEST)) if self.waiting else self.pool.free
            room = (len(sequence.blocks) + free) * BLOCK_TOKENS - len(tokens)
            # The last token that may come needs no successor.
            most = min(sequence.to_come - 1, room)
            draft = speculation.draft(sequence.lookup, tokens, most, sequence.expected)
            if draft:
                chunks[at] = Chunk(sequence, chunk.start, chunk.length + len(draft), draft)
                missing = blocks_for(len(tokens) + len(draft)) - len(sequence.blocks)
                sequence.blocks += [self.pool.take() for _ in range(missing)]
                sequence.drafted += len(draft)
                self.drafted_tokens += len(draft)
        return chunks

    def _most_at_once(self, prompts: int, budget: int) -> int:
        """How many tokens of a long prompt a step computes, if it has so many prompts."""
        if prompts == 1 and time.monotonic() - self._last_join > _ALONE_SECONDS:
            return budget
        return max(1, budget // 4)

    def _grow(self) -> None:
        """Give each running sequence room for its tokens, the first admitted first."""
        for sequence in list(self.running):
            while sequence.running and len(sequence.blocks) < blocks_for(len(sequence.tokens)):
                if self.pool.free:
                    sequence.blocks.append(self.pool.take())
                else:
                    self.preempt(self.running[-1])

    def _admit_waiting(self) -> None:
        """Admit those that wait, while there is room."""
        for sequence in list(self.waiting):
            if len(self.running) == self.slots:
                return
            self._begin(sequence)
            hashes = self._hashes(sequence) if self.pool.reuse else []
            wanted = hashes[: sequence.reusable_blocks]
            found = self.pool.find(wanted)
            if len(found) < len(wanted) and wanted[len(found)] in self._being_computed:
                continue  # others may pass; it costs less to wait than to compute it twice
            new = blocks_for(len(sequence.tokens)) - len(found)
            # A block to spare for each that runs, lest the newcomer is preempted at once.
            spare = len(self.running)
            if self.pool.free - self.pool.idle(found) < new + spare and self.running:
                return
            self._admit(sequence, found, new)

    def _admit(self, sequence: TokenSequence, found: list[int], new: int) -> None:
        """Let a sequence run, with the blocks that were `found` and some new ones."""
        self.waiting.remove(sequence)
        if self.running:
            self._last_join = time.monotonic()
        self.pool.share(found)
        sequence.blocks = found + [self.pool.take() for _ in range(new)]
        sequence.cached = len(found) * BLOCK_TOKENS
        self._being_computed.update(sequence.block_hashes[len(found) :])
        sequence.running = True
        self.running.append(sequence)
        if not sequence.admitted:
            sequence.admitted = time.monotonic()
            # What is forced behind the prompt may be in the cache as well.
            sequence.reused = min(sequence.cached, sequence.prompt_length)
            self.prompt_tokens += sequence.prompt_length
            self.cached_tokens += sequence.reused

    def _release(self, sequence: TokenSequence) -> None:
        """Let a sequence run no longer, and take back what it has of the cache."""
        self.running.remove(sequence)
        self.pool.release(sequence.blocks)
        uncomputed = sequence.block_hashes[sequence.cached // BLOCK_TOKENS :]
        self._being_computed.difference_update(uncomputed)
        sequence.running = False
        sequence.blocks = []
        sequence.cached = 0
        sequence.hidden_sum = None

    def _hashes(self, sequence: TokenSequence) -> list[BlockHash]:
        """The hashes of all full blocks of a sequence."""
        hashes = sequence.block_hashes
        parent = hashes[-1] if hashes else root_hash(sequence.request.adapter)
        hashes += block_hashes(parent, sequence.tokens[len(hashes) * BLOCK_TOKENS :])
        return hashes


def _divide(budget: int, needs: Mapping[TokenSequence, int], most: int) -> dict[TokenSequence, int]:
    """Divide `budget` tokens among prompts, of which the first has waited longest.

    Args:
        needs: how many tokens of each are left.
        most: what a prompt gets that does not fit as a whole.
    """
    given: dict[TokenSequence, int] = {}
    for sequence in [*list(needs)[:1], *sorted(list(needs)[1:], key=needs.__getitem__)]:
        need = needs[sequence]
        fits = need <= (budget if given else budget // 2)
        given[sequence] = min(need if fits else most, budget, need)
        budget -= given[sequence]
    return given
