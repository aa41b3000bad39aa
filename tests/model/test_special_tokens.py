"""Special tokens: the roles they have, and that nobody can write or read one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.engine.constraints import Constraints
from model.engine.request import Constraint
from model.errors import CheckpointError
from model.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    SpecialTokens,
    StreamDecoder,
    Tokenizer,
    byte_of_character,
)
from model.tokenizer.merges import BytePairs

BYTES = {bytes([byte]): byte for byte in range(256)}
CHAT = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
LLAMA = {"<|begin_of_text|>": 256, "<|end_of_text|>": 257, "<|eot_id|>": 258, "<|eom_id|>": 259}


class TestRoles:
    def test_of_one_token(self) -> None:
        special = SpecialTokens.of({END_OF_TEXT: 256})
        assert special.beginning == special.end_of_document == special.pad == 256
        assert special.stop == (256,)
        assert special.end_of_turn is None
        assert not special.adds_beginning

    def test_by_well_known_names(self) -> None:
        chat = SpecialTokens.of(CHAT)
        assert (chat.end_of_document, chat.end_of_turn, chat.stop) == (256, 258, (256, 258))
        llama = SpecialTokens.of(LLAMA, beginning=256, adds_beginning=True, ends=[258])
        assert (llama.beginning, llama.end_of_document, llama.end_of_turn) == (256, 257, 258)
        assert llama.stop == (257, 258, 259)

    def test_as_a_file_gives_them(self) -> None:
        """SmolLM2's end of sequence is the end of a turn."""
        special = SpecialTokens.of(CHAT, beginning=257, ends=[258], pad=258)
        assert (special.beginning, special.end_of_document, special.pad) == (257, 256, 258)
        assert special.stop == (256, 258)
        unknown = SpecialTokens.of({"<s>": 0, "</s>": 1, "<t>": 2}, ends=[1], end_of_turn=2)
        assert (unknown.end_of_document, unknown.end_of_turn, unknown.stop) == (1, 2, (1, 2))

    @pytest.mark.parametrize(
        "special",
        [
            SpecialTokens.of(CHAT),
            SpecialTokens.of(CHAT, beginning=257, adds_beginning=True, pad=258),
            SpecialTokens.of({"</s>": 256}, ends=[256]),
            SpecialTokens(CHAT, None, False, 256, None, 256, ()),
        ],
    )
    def test_settings(self, special: SpecialTokens) -> None:
        values = special.settings()
        assert SpecialTokens.from_settings(values, "x") == special
        assert ("roles" not in values) == (special == SpecialTokens.of(CHAT))

    @pytest.mark.parametrize(
        ("ids", "roles", "said"),
        [
            ({}, {}, "endoftext"),
            ({"<a>": 256}, {}, "names no eos token"),
            ({END_OF_TEXT: 256, "<a>": 256}, {}, "both have the id 256"),
            ({END_OF_TEXT: -1}, {}, "-1"),
            ({END_OF_TEXT: 2**40}, {}, str(2**40)),
            ({END_OF_TEXT: True}, {}, "True"),
            ({END_OF_TEXT: "256"}, {}, "'256'"),
            ({END_OF_TEXT: 1.0}, {}, "1.0"),
            (CHAT, {"beginning": 3}, "beginning is 3"),
            (CHAT, {"ends": [3]}, "stop[0] is 3"),
            (CHAT, {"pad": 300}, "pad is 300"),
        ],
    )
    def test_refusals(self, ids: Any, roles: dict[str, Any], said: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            SpecialTokens.of(ids, **roles)
        assert said in str(caught.value)

    def test_a_beginning_that_is_added_must_be_there(self) -> None:
        with pytest.raises(CheckpointError, match="no beginning token"):
            SpecialTokens(CHAT, None, True, 256, None, 256, (256,))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"special_tokens": [1]}, "special_tokens"),
            ({"special_tokens": {"<|endoftext|>": None}}, "None"),
            ({"roles": 3}, "roles"),
            ({"roles": {}}, "beginning"),
            ({"adds_beginning": 1}, "adds_beginning"),
            ({"end_of_document": None}, "end_of_document"),
            ({"end_of_turn": "x"}, "end_of_turn"),
            ({"pad": 5}, "pad is 5"),
            ({"stop": [True]}, "stop[0]"),
            ({"stop": 256}, "stop"),
        ],
    )
    def test_settings_that_are_wrong(self, change: dict[str, Any], said: str) -> None:
        values = SpecialTokens.of(CHAT, pad=258).settings()
        for name, value in change.items():
            (values if name in ("special_tokens", "roles") else values["roles"])[name] = value
        with pytest.raises(CheckpointError) as caught:
            SpecialTokens.from_settings(values, "its settings")
        assert said in str(caught.value)


class TestText:
    @pytest.fixture
    def chat(self) -> Tokenizer:
        special = SpecialTokens.of(CHAT, beginning=257, adds_beginning=True)
        return Tokenizer(BYTES, GPT2_PATTERN, special)

    def test_none_can_be_written(self, chat: Tokenizer) -> None:
        text = "".join(CHAT) + " <|im_end|>"
        assert chat.encode(text) == list(text.encode())
        assert chat.encode_batch([text]) == [chat.encode(text)]
        assert chat.decode(chat.encode(text)) == text

    def test_none_is_shown(self, chat: Tokenizer) -> None:
        assert chat.decode([257, 97, 258, 256]) == "a"
        decoder = StreamDecoder(chat)
        euro = "€".encode()
        pieces = [decoder.push(token) for token in (257, euro[0], euro[1], 258, euro[2], 256)]
        assert pieces == ["", "", "", "", "€", ""]
        assert chat.token_bytes(258) == b""

    def test_each_has_a_name(self, chat: Tokenizer) -> None:
        assert [chat.token_name(token) for token in (97, 255, 258)] == ["a", "\ufffd", "<|im_end|>"]

    def test_the_beginning_is_in_front_of_what_the_model_reads(self, chat: Tokenizer) -> None:
        assert chat.encode_prompt("a") == [257, 97]
        assert chat.encode("a") == [97]
        assert chat.prefix == (257,)
        plain = Tokenizer(BYTES, GPT2_PATTERN, CHAT)
        assert plain.encode_prompt("a") == [97]
        assert plain.sha256 != chat.sha256

    def test_roles_that_change_no_token_are_not_hashed(self) -> None:
        one = Tokenizer(BYTES, GPT2_PATTERN, CHAT)
        other = Tokenizer(BYTES, GPT2_PATTERN, SpecialTokens.of(CHAT, pad=258))
        assert one.sha256 == other.sha256

    def test_ids_without_a_token(self) -> None:
        """A network can draw one: no text, but no error either."""
        tokenizer = Tokenizer(BYTES, GPT2_PATTERN, {END_OF_TEXT: 300})
        assert tokenizer.vocab_size == 301
        assert tokenizer.token_bytes(280) == b""
        assert tokenizer.token_name(280) == "<unused 280>"
        assert StreamDecoder(tokenizer).push(280) == ""
        with pytest.raises(KeyError):
            tokenizer.decode([280])
        for outside in (301, -1):
            with pytest.raises(KeyError):
                tokenizer.token_bytes(outside)
            with pytest.raises(KeyError):
                StreamDecoder(tokenizer).push(outside)

    def test_existing_names(self, chat: Tokenizer) -> None:
        assert chat.special_tokens == CHAT
        assert chat.end_token == chat.special.end_of_document == 256


def test_a_special_id_that_is_an_ordinary_tokens(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the id 97 stands for"):
        Tokenizer(BYTES, GPT2_PATTERN, {END_OF_TEXT: 97})
    path = tmp_path / "tokenizer.tiktoken"
    path.write_bytes(Tokenizer(BYTES, GPT2_PATTERN, CHAT).file_content())
    settings = {"pattern": GPT2_PATTERN, "special_tokens": {END_OF_TEXT: 97}}
    with pytest.raises(CheckpointError, match=r"tokenizer\.tiktoken.*97"):
        Tokenizer.from_file(path, settings)


@pytest.mark.parametrize("nfc", [False, True], ids=["tiktoken", "tokenizers"])
def test_a_constraint_ends_with_a_stop_token_and_has_no_other(nfc: bool) -> None:
    """The mask lets through exactly the tokens whose bytes fit, whichever library encodes."""
    tokens = {**byte_of_character(), "ab": 256, "abc": 257, "bd": 259}
    merges = (("a", "b"), ("ab", "c"), ("b", "d"))
    special = SpecialTokens.of({"<|endoftext|>": 260, "<|im_end|>": 262, "<|x|>": 263})
    pairs = BytePairs(tokens, merges, GPT2_PATTERN, nfc=nfc)
    tokenizer = Tokenizer.of_pairs(pairs, special)
    assert (tokenizer.pairs is not None) == nfc
    constraints = Constraints(tokenizer, special.stop)
    constraint = Constraint("regex", "[abcd]{1,4}")
    constraints.prepare(constraint)
    matcher = constraints.matcher(constraint)

    def allowed() -> set[int]:
        logits = torch.zeros(1, tokenizer.vocab_size)
        assert constraints.mask([(0, matcher)], logits) == {}
        return set(torch.isfinite(logits[0]).nonzero().flatten().tolist())

    single = set(b"abcd")
    assert allowed() == single | {256, 257, 259}
    matcher.consume(257)
    assert allowed() == single | {260, 262}
    matcher.consume(ord("d"))
    assert matcher.complete
