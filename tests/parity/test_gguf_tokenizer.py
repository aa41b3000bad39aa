"""The tokenizers in GGUF fields: every kind that is read, its roles, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Peer

from model.convert.bpe_files import write_tokenizer
from model.convert.gguf_tokenizer import add_tokenizer, read_tokenizer
from model.errors import CheckpointError, UsageError
from model.tokenizer import GPT2_PATTERN, PATTERN, SpecialTokens, Tokenizer, byte_of_character
from model.tokenizer.patterns import LLAMA3_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN
from tests.parity.test_tokenizers import HARD, SPLITS, assert_equal, trained

SOURCE = Path("some.gguf")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def fields_of(peer: Peer, pre: str, **more: Any) -> dict[str, Any]:
    """As llama.cpp's converter writes a vocabulary that `trained` made."""
    model = json.loads(peer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
    }


@pytest.mark.parametrize(
    ("pre", "split", "pattern", "adds"),
    [
        ("gpt-2", "gpt-2", GPT2_PATTERN, False),
        ("smollm", "smollm2", SMOLLM_PATTERN, False),
        ("llama-bpe", "llama-3", LLAMA3_PATTERN, True),
        ("llama3", "llama-3", LLAMA3_PATTERN, True),
        ("llama-v3", "llama-3", LLAMA3_PATTERN, True),
        ("qwen2", "qwen2", QWEN2_PATTERN, False),
    ],
)
def test_kinds(pre: str, split: str, pattern: str, adds: bool) -> None:
    peer = trained(SPLITS[split][0], nfc=pre == "qwen2")
    ours = read_tokenizer(fields_of(peer, pre), SOURCE)
    assert ours.pattern == pattern
    assert ours.special.adds_beginning == adds
    assert (ours.pairs is not None) == (pre == "qwen2")
    assert assert_equal(ours, peer) == 0
    stated = fields_of(peer, pre, add_bos_token=not adds)
    assert read_tokenizer(stated, SOURCE).special.adds_beginning != adds


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    """<|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, then ordinary tokens up to 699."""
    return fields_of(trained(SPLITS["gpt-2"][0]), "gpt-2")


def changed(fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    return {name: v for name, v in {**fields, **named}.items() if v is not None}


class TestRoles:
    def test_by_their_names(self, fields: dict[str, Any]) -> None:
        special = read_tokenizer(fields, SOURCE).special
        assert special == SpecialTokens(
            {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}, 0, False, 0, 2, 0, (0, 2)
        )

    def test_as_the_file_says(self, fields: dict[str, Any]) -> None:
        special = read_tokenizer(
            changed(fields, bos_token_id=1, eos_token_id=2, padding_token_id=2), SOURCE
        ).special
        assert (special.beginning, special.end_of_document, special.pad) == (1, 0, 2)
        assert (special.end_of_turn, special.stop) == (2, (0, 2))

    def test_several_ends(self, fields: dict[str, Any]) -> None:
        special = read_tokenizer(changed(fields, eos_token_id=[2, 1]), SOURCE).special
        assert special.stop == (0, 1, 2)
        for name in ("eot_token_id", "eom_token_id"):
            assert read_tokenizer(changed(fields, **{name: 1}), SOURCE).special.stop == (0, 1, 2)


class TestTypes:
    def test_added_tokens_are_text(self, fields: dict[str, Any]) -> None:
        tokens = [*fields["tokenizer.ggml.tokens"], "<tool_call>", "[PAD701]", "<unk>"]
        types = [*fields["tokenizer.ggml.token_type"], 4, 5, 2]
        ours = read_tokenizer(changed(fields, tokens=tokens, token_type=types), SOURCE)
        assert ours.encode("<tool_call><unk>")[0] == 700
        assert ours.decode([700]) == "<tool_call>"
        assert ours.special.ids["<unk>"] == 702
        assert 702 not in ours.encode("<tool_call><unk>")
        assert ours.token_bytes(701) == b"", "a token that only fills up"
        assert ours.vocab_size == 703

    def test_what_fills_up_the_end_is_left_out(self, fields: dict[str, Any]) -> None:
        tokens = [*fields["tokenizer.ggml.tokens"], "[PAD0]", "[PAD0]"]
        types = [*fields["tokenizer.ggml.token_type"], 5, 5]
        ours = read_tokenizer(changed(fields, tokens=tokens, token_type=types), SOURCE)
        assert ours.vocab_size == 700

    def test_no_types_at_all(self, fields: dict[str, Any]) -> None:
        """Well-known names are special all the same."""
        ours = read_tokenizer(changed(fields, token_type=None), SOURCE)
        assert ours.special.ids == {"<|endoftext|>": 0, "<|im_end|>": 2}
        assert ours.special.stop == (0, 2)
        assert ours.decode([1]) == "<|im_start|>"
        assert not {0, 1, 2} & set(ours.encode("<|endoftext|><|im_start|><|im_end|>"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"model": None}, "has no tokenizer.ggml.model"),
        ({"model": 3}, "tokenizer.ggml.model is 3"),
        ({"pre": "default"}, "tokenizer.ggml.pre is 'default'"),
        ({"pre": "deepseek-coder"}, "tokenizer.ggml.pre is 'deepseek-coder'"),
        ({"pre": None}, "has no tokenizer.ggml.pre"),
        ({"pre": ["gpt-2"]}, "tokenizer.ggml.pre"),
        ({"tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is 'abc'"),
        ({"tokens": []}, "0 tokens"),
        ({"tokens": [1]}, "tokenizer.ggml.tokens[0] is 1"),
        ({"token_type": [1]}, "1 token types"),
        ({"token_type": [6] * 700}, "is 6; only"),
        ({"token_type": [True] * 700}, "tokenizer.ggml.token_type[0]"),
        ({"merges": None}, "has no tokenizer.ggml.merges"),
        ({"merges": ["a"]}, "the merge 'a'"),
        ({"merges": ["a b c"]}, "the merge 'a b c'"),
        ({"merges": ["a 人"]}, "the merge 'a 人'"),
        ({"eos_token_id": 5}, "eos_token_id is 5, which is no special token"),
        ({"eos_token_id": 2**40}, "eos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id"),
        ({"bos_token_id": True}, "bos_token_id is True"),
        ({"bos_token_id": 1.0}, "bos_token_id is 1.0"),
        ({"add_bos_token": 1}, "add_bos_token is 1"),
        ({"add_eos_token": True}, "add_eos_token is true"),
    ],
)
def test_refusals(fields: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(changed(fields, **change), SOURCE)
    assert str(caught.value).startswith("some.gguf: ")
    assert said in str(caught.value)


def test_a_token_that_is_there_twice(fields: dict[str, Any]) -> None:
    tokens = [*fields["tokenizer.ggml.tokens"][:-1], "a"]
    with pytest.raises(CheckpointError, match="has 'a' twice"):
        read_tokenizer(changed(fields, tokens=tokens), SOURCE)


def test_bytes_alone_need_no_merges() -> None:
    """Those who write the format leave empty lists out."""
    tokens = [*sorted(byte_of_character(), key=byte_of_character().__getitem__), "<|endoftext|>"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3],
    }
    assert read_tokenizer(fields, SOURCE).encode("ab") == [97, 98]


class Writer:
    """Takes what a `gguf.GGUFWriter` is given."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        names = {
            "add_tokenizer_model": "model",
            "add_tokenizer_pre": "pre",
            "add_token_list": "tokens",
            "add_token_types": "token_type",
            "add_token_merges": "merges",
            "add_bos_token_id": "bos_token_id",
            "add_eos_token_id": "eos_token_id",
            "add_eot_token_id": "eot_token_id",
            "add_eom_token_id": "eom_token_id",
            "add_pad_token_id": "padding_token_id",
            "add_add_bos_token": "add_bos_token",
        }
        return lambda value: self.fields.update({f"tokenizer.ggml.{names[name]}": value})

    def add_string(self, name: str, value: str) -> None:
        self.fields[name] = value


class TestExport:
    @pytest.mark.parametrize("pattern", [GPT2_PATTERN, PATTERN])
    def test_the_round_trip(self, pattern: str) -> None:
        ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256}
        for special in (
            SpecialTokens.of({"<|endoftext|>": 257}),
            SpecialTokens.of({"<|endoftext|>": 257, "<|im_end|>": 258}, pad=258),
        ):
            ours = Tokenizer(ranks, pattern, special)
            writer = Writer()
            add_tokenizer(writer, ours, ours.vocab_size + 3)
            again = read_tokenizer(writer.fields, SOURCE)
            assert again.sha256 == ours.sha256
            assert again.special == ours.special

    @pytest.mark.parametrize(
        ("pre", "split", "more"),
        [
            ("gpt-2", "gpt-2", {"add_bos_token": True}),
            ("smollm", "smollm2", {"eos_token_id": 2, "bos_token_id": 1}),
            ("llama-bpe", "llama-3", {"eos_token_id": 1, "eom_token_id": 2}),
            ("qwen2", "qwen2", {}),
        ],
    )
    def test_every_kind(self, pre: str, split: str, more: dict[str, Any], tmp_path: Path) -> None:
        """Also one whose merges ids alone do not tell, with an added token and an id left out."""
        fields = fields_of(trained(SPLITS[split][0], nfc=pre == "qwen2"), pre, **more)
        if pre == "qwen2":
            fields["tokenizer.ggml.tokens"] += ["[PAD]", "<tool_call>"]
            fields["tokenizer.ggml.token_type"] += [5, 4]
        ours = read_tokenizer(fields, SOURCE)
        writer = Writer()
        add_tokenizer(writer, ours, ours.vocab_size + 1)
        again = read_tokenizer(writer.fields, SOURCE)
        assert again.sha256 == ours.sha256
        assert again.special == ours.special
        assert writer.fields["tokenizer.ggml.pre"] == pre
        if pre == "qwen2":
            with pytest.raises(UsageError, match="701 tokens with ids up to 701"):
                write_tokenizer(tmp_path, ours, {})
        else:
            write_tokenizer(tmp_path, ours, {})

    def test_what_cannot_be_written(self, tmp_path: Path) -> None:
        ranks = {bytes([i]): i for i in range(256)}
        end = {"<|endoftext|>": 300}
        unknown = Tokenizer(ranks, r"\w+|\W+", end)
        self.refuse(unknown, "no name")
        with pytest.raises(UsageError, match="--format hf: the tokenizer's pattern"):
            write_tokenizer(tmp_path, unknown, {})
        gaps = Tokenizer(ranks, GPT2_PATTERN, end)
        with pytest.raises(UsageError, match="257 tokens with ids up to 300"):
            write_tokenizer(tmp_path, gaps, {})
        self.refuse(Tokenizer(ranks, QWEN2_PATTERN, end), "as qwen2, but with no NFC")
        twice = Tokenizer({**ranks, b"ab": 256}, GPT2_PATTERN, {**end, "ab": 257})
        self.refuse(twice, "'ab' both as a special and as an ordinary token")
        stops = {f"<{i}>": 301 + i for i in range(3)}
        roles = SpecialTokens.of({**end, **stops}, ends=stops.values(), end_of_turn=301)
        self.refuse(Tokenizer(ranks, GPT2_PATTERN, roles), "4 tokens end a text")

    def refuse(self, tokenizer: Tokenizer, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            add_tokenizer(Writer(), tokenizer, tokenizer.vocab_size)


def test_all_bytes_are_needed_by_nobody() -> None:
    """A vocabulary without some bytes, as SmolLM2's: texts are the same where they have tokens."""
    peer = trained(SPLITS["smollm2"][0])
    fields = fields_of(peer, "smollm")
    gone = [c for c, byte in byte_of_character().items() if byte >= 0xF5]
    types = [
        5 if token in gone else type_
        for token, type_ in zip(
            fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True
        )
    ]
    ours = read_tokenizer(changed(fields, token_type=types), SOURCE)
    assert ours.missing_bytes == tuple(range(0xF5, 0x100))
    assert ours.file_name == "tokenizer.tiktoken"
    assert assert_equal(ours, peer, HARD) == 0, "no text has these bytes"
