"""Which tokens of which sequences are computed in the next step.

A step has a budget of tokens and places for sequences, the slots. Where there are more sequences
than slots, clients take turns (`model.engine.turns`); who has begun and has no turn pauses: it
keeps its blocks and gets no token, so that nothing is computed twice. What ends with one step, as a
label does, needs no slot.

Those that decode come first, with one token each, so that no stream stalls. The rest of the budget
is divided evenly among the clients that have prompts; what one cannot use is the others'. Within a
client a quarter goes to the prompt that came first, so that none waits for ever, and what is left
to those that need least, each as a whole where it fits: a short prompt does not wait for the long
ones before it. A long prompt is computed in such small chunks as long as others come and go that a
step hardly takes longer; once it has been alone for some seconds, it gets whole steps. The tokens
that a constraint forced behind a drawn one are such a short prompt.

A sequence is admitted when blocks for all of its tokens are free. It takes over what another
sequence with the same beginning has in the cache, and waits for a while if that is being computed
right now. When a sequence needs a block and there is none, one that comes later in this step is
preempted: it gives its blocks back and waits. Later its tokens are computed anew, and it goes on as
if nothing had happened. Who does not fit holds back those behind it; but a client that stays within
its share of the cache may pass, and those who have more than theirs make room for it.

What a step has left of its budget, drafts may have, see `model.engine.speculation`. They take what
is free of the cache for that step alone: nobody waits or makes room for them. Only tokens that were
drawn count as cached, and only those can others find.
"""

import time
from collections import Counter
from collections.abc import Callable

from model.engine.blocks import BlockHash, BlockPool, block_hashes, root_hash
from model.engine.prompt_budget import PromptBudget
from model.engine.sequence import Chunk, TokenSequence
from model.engine.speculation import LONGEST, Speculation, StepCost
from model.engine.turns import Turns
from model.kv_cache import BLOCK_TOKENS, blocks_for

_FIRST = 10
"""The priority of who goes to the head of the line: above all that a request can have."""
_LEAST_BRIEF = 4
"""Of those that end with one step, as many may have a part in each, however long the first are."""


class Scheduler:
    """Decides on each step. Knows nothing of networks.

    Args:
        pool: the blocks of the cache; enough for one sequence of a full context.
        slots: sequences that are generated at once.
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
        self.prompts = PromptBudget(StepCost() if speculation is None else speculation.cost)
        self._begin = begin
        self._turns = Turns()  # of those that need a slot
        self._brief = Turns()  # of those that end with one step
        self.waiting: dict[TokenSequence, None] = {}
        """Those without blocks, a set in the order of arrival, or of preemption."""
        self.running: list[TokenSequence] = []
        """Those with blocks, in the order in which they were admitted; some of them may pause."""
        self.active: dict[TokenSequence, None] = {}
        """Those with a part in the step that was planned last: a set, in the order of turns."""
        self.preemptions = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self._being_computed: set[BlockHash] = set()  # blocks that active sequences will fill
        # Of the step that is planned: who has a part in it; clients of whom one found no room, and
        # the highest priority of those; blocks by client, until they change.
        self._chosen: dict[TokenSequence, None] = {}
        self._blocked: set[str] = set()
        self._blocked_priority = 0
        self._held: Counter[str] | None = None
        self._clients = Counter[str]()  # sequences of each

    def add(self, sequence: TokenSequence, *, first: bool = False) -> None:
        """Queue a sequence, at the head of the line if it is to be `first`."""
        if first:
            sequence.priority = _FIRST
        self.waiting[sequence] = None
        self._clients[sequence.request.client] += 1
        self._line(sequence).add(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step."""
        self._choose()
        active = [sequence for sequence in self.running if sequence in self.active]
        decoding = [sequence for sequence in active if sequence.decodes]
        prompts = [sequence for sequence in active if not sequence.decodes]
        budget = self.step_tokens - len(decoding)
        needs = {sequence: sequence.uncached for sequence in prompts}
        needs |= {each: each.uncached - 1 for each in decoding if each.uncached > 1}
        given = self.prompts.divide(budget, needs, len(decoding))
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
        self.waiting[sequence] = None
        self.preemptions += 1

    def remove(self, sequence: TokenSequence, *, forget_blocks: bool = False) -> None:
        """Take a sequence out, wherever it is, and give its blocks back.

        Args:
            forget_blocks: nobody is to use what it computed.
        """
        self._line(sequence).remove(sequence)
        self._clients -= Counter([sequence.request.client])
        if not sequence.running:
            del self.waiting[sequence]
            return
        if forget_blocks:
            self.pool.forget(sequence.blocks)
        self._release(sequence)

    def _line(self, sequence: TokenSequence) -> Turns:
        """Where it takes its turns."""
        return self._brief if sequence.brief else self._turns

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

    def _choose(self) -> None:
        """Give those whose turn it is their part in the next step, and the blocks for it."""
        self._chosen = {}
        self._blocked, self._held = set(), None
        # One token at least is for those that need no slot.
        slots = min(self.slots, self.step_tokens - bool(self._brief))
        for sequence in self._turns:
            if len(self._chosen) == slots:
                break
            self._take_part(sequence)
        budget = self.step_tokens - len(self._chosen)
        for sequence in self._brief:
            if budget <= 0:
                break
            if self._take_part(sequence):
                budget -= min(sequence.uncached, max(1, self.step_tokens // _LEAST_BRIEF))
        # Nobody waits for what one that pauses was about to compute.
        for sequence in self.active:
            if sequence not in self._chosen:
                self._being_computed.difference_update(_uncomputed(sequence))
        for sequence in self._chosen:
            if sequence not in self.active:
                self._being_computed.update(_uncomputed(sequence))
        self.active = self._chosen
        for turns in (self._turns, self._brief):
            turns.count(each for each in self.active if self._line(each) is turns)

    def _take_part(self, sequence: TokenSequence) -> bool:
        """Whether a sequence can have a part in the step; then it does, and has its blocks."""
        if self._grow(sequence) if sequence.running else self._admit(sequence):
            self._chosen[sequence] = None
        return sequence in self._chosen

    def _grow(self, sequence: TokenSequence) -> bool:
        """Whether a running sequence has room for its tokens; others, or it, may be preempted."""
        while sequence.running and len(sequence.blocks) < blocks_for(len(sequence.tokens)):
            if self.pool.free:
                sequence.blocks.append(self.pool.take())
                self._held = None
            else:
                self.preempt(self._last_to_keep_blocks(self._idle()))
        return sequence.running

    def _admit(self, sequence: TokenSequence) -> bool:
        """Whether a sequence that waits has room now; then it runs."""
        if self._blocked and not self._may_pass(sequence):
            return False
        self._begin(sequence)
        hashes = self._hashes(sequence) if self.pool.reuse else []
        wanted = hashes[: sequence.reusable_blocks]
        found = self.pool.find(wanted)
        if len(found) < len(wanted) and wanted[len(found)] in self._being_computed:
            return False  # others may pass; it costs less to wait than to compute it twice
        new = blocks_for(len(sequence.tokens)) - len(found)
        if not self._make_room(sequence, found, new):
            self._blocked_priority = self._blocked_priority if self._blocked else sequence.priority
            self._blocked.add(sequence.request.client)
            return False
        del self.waiting[sequence]
        self._held = None
        if self.running:
            self.prompts.joined()
        self.pool.share(found)
        sequence.blocks = found + [self.pool.take() for _ in range(new)]
        sequence.cached = len(found) * BLOCK_TOKENS
        # At once, for those that come next in this step.
        self._being_computed.update(_uncomputed(sequence))
        sequence.running = True
        self.running.append(sequence)
        if not sequence.admitted:
            sequence.admitted = time.monotonic()
            # What is forced behind the prompt may be in the cache as well.
            sequence.reused = min(sequence.cached, sequence.prompt_length)
            self.prompt_tokens += sequence.prompt_length
            self.cached_tokens += sequence.reused
        return True

    def _make_room(self, sequence: TokenSequence, found: list[int], new: int) -> bool:
        """Whether so many new blocks are free beside those that were `found`. Those who have more
        than their share of the cache, or less priority, are preempted for it."""
        while self.running:
            # A block to spare for each that runs, lest the newcomer is preempted at once.
            missing = new + len(self.running) - (self.pool.free - self.pool.idle(found))
            if missing <= 0:
                return True
            givers = [each for each in self._idle() if self._makes_room(each, sequence)]
            if sum(len(each.blocks) for each in givers) < missing:
                return False
            self.preempt(self._last_to_keep_blocks(givers))
        return True

    def _makes_room(self, running: TokenSequence, newcomer: TokenSequence) -> bool:
        if running.priority != newcomer.priority:
            return running.priority < newcomer.priority
        return self._within_share(newcomer) and not self._within_share(running)

    def _may_pass(self, sequence: TokenSequence) -> bool:
        """Whether it may be admitted although one before it found no room."""
        others = sequence.request.client not in self._blocked
        urgent = sequence.priority >= self._blocked_priority
        return others and urgent and self._within_share(sequence)

    def _within_share(self, sequence: TokenSequence) -> bool:
        """Whether its client, with its blocks, has no more than an even share of them."""
        held = self._blocks_held()[sequence.request.client]
        more = 0 if sequence.running else blocks_for(len(sequence.tokens))
        return held + more <= self.pool.blocks // len(self._clients)

    def _blocks_held(self) -> Counter[str]:
        """By each client. What several have is counted for each."""
        if self._held is None:
            self._held = Counter()
            for each in self.running:
                self._held[each.request.client] += len(each.blocks)
        return self._held

    def _idle(self) -> list[TokenSequence]:
        """Those with blocks that have no part in the step so far."""
        return [each for each in self.running if each not in self._chosen]

    def _last_to_keep_blocks(self, running: list[TokenSequence]) -> TokenSequence:
        """Whose blocks are taken first: who has least priority, of the client that has most of the
        cache, and was admitted last."""
        held = self._blocks_held()
        return max(reversed(running), key=lambda s: (-s.priority, held[s.request.client]))

    def _release(self, sequence: TokenSequence) -> None:
        """Let a sequence run no longer, and take back what it has of the cache."""
        self.running.remove(sequence)
        self.active.pop(sequence, None)
        self._held = None
        self.pool.release(sequence.blocks)
        self._being_computed.difference_update(_uncomputed(sequence))
        sequence.running = False
        sequence.blocks = []
        sequence.cached = 0
        sequence.start_anew()

    def _hashes(self, sequence: TokenSequence) -> list[BlockHash]:
        """The hashes of all full blocks of a sequence."""
        hashes = sequence.block_hashes
        parent = hashes[-1] if hashes else root_hash(sequence.request.adapter)
        hashes += block_hashes(parent, sequence.tokens[len(hashes) * BLOCK_TOKENS :])
        return hashes


def _uncomputed(sequence: TokenSequence) -> list[BlockHash]:
    """The hashes of its blocks that are still to be computed, as far as they were asked for."""
    return sequence.block_hashes[sequence.cached // BLOCK_TOKENS :]
