"""Conversations as tokens: what is learnt of them, cut, joined and packed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st

from model.architecture import Architecture
from model.checkpoint import Base, load_base
from model.errors import UsageError
from model.lora import LoRASettings
from model.prompts import Alpaca, ChatML, Message, Part, Qwen3, Template
from model.prompts import encode as encode_parts
from model.prompts.foreign.template import JinjaTemplate
from model.tokenizer import GPT2_PATTERN, Tokenizer
from model.transformer import Transformer
from training.data.conversations import Instruction
from training.data.lengths import Lengths
from training.data.preferences import Preference
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE
from training.objectives.conversations import (
    Conversation,
    encode,
    joined,
    last_answer,
    pad,
)
from training.objectives.packing import PackedAttention, pack, packs
from training.objectives.preferences import encode as encode_preferences
from training.objectives.responses import InstructionTuning
from training.tuning.methods import start_tuning

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TOKENIZER = Tokenizer(
    {bytes([i]): i for i in range(256)},
    GPT2_PATTERN,
    {text: 256 + i for i, text in enumerate(SPECIAL)},
)


def said(conversation: Conversation) -> str:
    pairs = zip(conversation.tokens, conversation.learnt, strict=True)
    return text(token for token, learnt in pairs if learnt)


def text(tokens: Iterable[int]) -> str:
    """Special tokens included."""
    names = {token: name for name, token in TOKENIZER.special.ids.items()}
    return "".join(names.get(token) or TOKENIZER.decode([token]) for token in tokens)


SYSTEM = Message("system", "Be brief.")
FIRST = (SYSTEM, Message("user", "a?"))
SECOND = (*FIRST, Message("assistant", "A"), Message("user", "b?"))
CHAT = (
    Instruction("a?", "", "A", earlier=FIRST[:-1]),
    Instruction("b?", "", "B", earlier=SECOND[:-1]),
)


def test_all_that_the_assistant_says_is_learnt_with_what_ends_its_turns() -> None:
    [_, whole] = encode(CHAT, TOKENIZER, 512, ChatML()).found
    assert said(whole) == "A<|im_end|>B<|im_end|>"
    assert whole.targets == 4
    assert whole.tokens[-1] == TOKENIZER.special.ids["<|im_end|>"]
    assert said(last_answer(whole)) == "B<|im_end|>"
    ignored = replace(CHAT[1], earlier=(*FIRST, Message("assistant", "A", learnt=False)))
    [one] = encode([ignored], TOKENIZER, 512, ChatML()).found
    assert said(one) == "B<|im_end|>"


@pytest.mark.parametrize(
    ("template", "together"), [(ChatML(), True), (Qwen3(), False), (Alpaca(), False)]
)
def test_answers_are_learnt_together_where_the_template_keeps_earlier_turns(
    template: Template, together: bool
) -> None:
    alone = Instruction("c?", "", "C")
    found = encode([*CHAT, alone], TOKENIZER, 512, template)
    whole = joined(found)
    assert whole.rows == ((CHAT[1], alone) if together else (*CHAT, alone))
    # Each answer is learnt once, and after the same tokens.
    assert sum(c.targets for c in map(last_answer, found.found)) == sum(
        c.targets for c in whole.found
    )
    assert joined(encode([*CHAT, *CHAT], TOKENIZER, 512, template)).rows == (
        (CHAT[1], CHAT[1]) if together else (*CHAT, *CHAT)
    )


def test_the_beginning_of_a_conversation_that_is_too_long_is_learnt() -> None:
    found = encode(CHAT, TOKENIZER, 512, ChatML())
    first, second = (len(each.tokens) for each in found.found)
    short = encode(CHAT, TOKENIZER, second - 1, ChatML())
    assert joined(short).rows == (CHAT[0],)
    assert [(row.text, row.tokens) for row in short.too_long] == [("b?", second)]
    cut = encode(CHAT, TOKENIZER, second - 1, ChatML(), cut=True)
    assert cut.rows == CHAT
    assert len(cut.too_long) == 1
    [one] = joined(cut).found
    assert one == found.found[1].cut(second - 1)
    assert said(one) == "A<|im_end|>B"
    # Of what is cut before an answer begins, nothing could be learnt.
    assert encode(CHAT, TOKENIZER, first - 2, ChatML(), cut=True).rows == ()


def test_the_length_of_rows_is_not_the_context_of_a_large_base() -> None:
    assert Lengths().limit(131072) == 1024
    assert Lengths().limit(512) == 512
    assert Lengths(4096).limit(131072) == 4096
    with pytest.raises(UsageError, match="--max-length is 513; it must be at most 512"):
        Lengths(513).limit(512)
    with pytest.raises(UsageError, match="--max-length is 1; it must be at least 2"):
        Lengths(1)


@examples(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_packs_hold_every_sequence_once_and_no_more_than_fits(lengths: list[int]) -> None:
    found = packs(lengths, 64)
    assert sorted(index for row in found for index in row) == list(range(len(lengths)))
    totals = sorted(sum(lengths[index] for index in row) for row in found)
    assert totals[-1] <= 64
    # No two rows would have fitted into one.
    assert len(totals) == 1 or totals[0] + totals[1] > 64
    assert found == packs(lengths, 64)


def rows(count: int) -> list[Instruction]:
    words = ("bus", "dinner", "home is where", "love", "sleep now and then again")
    return [Instruction(f"Say {i}.", "", words[i % len(words)] * (1 + i % 7)) for i in range(count)]


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_step_is_a_padded_one(
    method: str, checkpointing: bool, base: Base, base_path: Path
) -> None:
    """Loss and gradients, to rounding: a conversation sees itself alone, from position 0."""
    found = encode(rows(12), base.tokenizer, 128, Alpaca())
    gradients, losses = [], []
    for packed in (0, 512):
        settings = LoopSettings(
            steps=1, device="cpu", precision="fp32", checkpoint_activations=checkpointing
        )
        tuning = start_tuning(load_base(base_path), method, LoRASettings(), None, settings)
        with torch.no_grad():  # adapters change something from the first step on
            for parameter in tuning.trained.parameters():
                parameter += 0.01
        task = InstructionTuning(tuning, found, found, settings, Alpaca(), packed=packed)
        assert (task.examples < len(found)) == bool(packed)
        batch = task.batch(range(task.examples))
        assert batch.count == sum(each.targets for each in found.found)
        loss = task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        gradients.append([p.grad for p in tuning.trained.parameters() if p.grad is not None])
        if packed:
            lengths = [len(each.tokens) - 1 for each in found.found]
            assert batch.inputs.numel() == sum(lengths)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-5)


def test_a_conversation_in_a_pack_does_not_see_its_neighbours() -> None:
    config = Architecture(300, 128, n_layer=2, n_head=4, n_embd=32)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    found = encode(rows(6), TOKENIZER, 128, ChatML()).found
    other = Conversation((1, 2, 3), (False, True, True))
    results = []
    for neighbour in (found[1], other):
        batch = pack([found[0], neighbour, found[2]], torch.device("cpu"))
        cache = PackedAttention(batch.lengths.tolist(), torch.device("cpu"))
        hidden = model(batch.inputs[0], positions=cache.positions, cache=cache)
        first, last = int(batch.lengths[0]), int(batch.lengths[2])
        results.append((hidden[:first], hidden[-last:]))
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    alone = model(pad(found[:1], 0, torch.device("cpu")).inputs)[0]
    assert torch.allclose(results[0][0], alone, atol=1e-6)


def test_targets_of_a_pack_stay_within_their_conversations() -> None:
    found = encode(rows(3), TOKENIZER, 128, ChatML()).found
    batch = pack(found, torch.device("cpu"))
    targets = batch.targets[0].split(batch.lengths.tolist())
    for one, conversation in zip(targets, found, strict=True):
        learnt = [target for target in one.tolist() if target != IGNORE]
        assert text(learnt) == said(conversation)


def test_what_a_template_has_no_form_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    good = Instruction("a?", "", "A")

    class Picky(ChatML):
        def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
            if any(message.role == "system" for message in messages):
                raise UsageError("system messages are not supported")
            return super()._parts(messages, answer)

    found = encode([CHAT[0], good], TOKENIZER, 512, Picky())
    assert found.rows == (good,)
    said = capsys.readouterr().err
    assert "1 of 2 rows are left out, as the chatml template has no form for them" in said
    assert "'a?': system messages are not supported" in said
    pairs = [Preference("a?", "", "A", "B", FIRST[:-1]), Preference("a?", "", "A", "B")]
    assert encode_preferences(pairs, TOKENIZER, 512, Picky()).rows == (pairs[1],)
    assert "system messages are not supported" in capsys.readouterr().err


def test_a_model_s_own_template_is_learnt_like_those_that_are_built_in() -> None:
    """Its turns are ended by a token of its own, and all answers of a chat are one row."""
    own = JinjaTemplate.of(
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<think>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
        SPECIAL,
    )
    found = encode(CHAT, TOKENIZER, 512, own)
    assert [said(each) for each in found.found] == ["A<think>", "A<think>B<think>"]
    [whole] = joined(found).found
    served = encode_parts(own.render(list(SECOND)), TOKENIZER).ids
    assert whole.tokens[: len(served)] == tuple(served)
    assert text(whole.tokens[len(served) :]) == "B<think>"
    refusing = JinjaTemplate.of(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.content }}<think>{% endfor %}",
        SPECIAL,
    )
    good = Instruction("a?", "", "A")
    assert encode([*CHAT, good], TOKENIZER, 512, refusing).rows == (good,)
