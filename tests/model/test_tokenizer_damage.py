"""Whatever is wrong in the files of a tokenizer, it loads and works, or it is a CheckpointError."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model.convert.gguf_tokenizer import read_tokenizer as read_gguf_tokenizer
from model.errors import CheckpointError, TextError
from model.tokenizer import GPT2_PATTERN, SpecialTokens, Tokenizer, byte_of_character
from model.tokenizer.files import tokenizer_json
from model.tokenizer.hugging_face import read_tokenizer
from model.tokenizer.merges import AddedToken, BytePairs
from model.tokenizer.patterns import QWEN2_PATTERN

SPECIAL = SpecialTokens.of({"<|endoftext|>": 258, "<|im_end|>": 259}, ends=[259], pad=259)
TOKENS = {**byte_of_character(), "ab": 256, "abc": 257}
MERGES = (("a", "b"), ("ab", "c"))
PAIRS = BytePairs(TOKENS, MERGES, QWEN2_PATTERN, nfc=True, added={"<x>": AddedToken(260, True)})
CONFIG = {
    "bos_token": "<|endoftext|>",
    "eos_token": {"content": "<|im_end|>"},
    "pad_token": None,
    "add_bos_token": False,
    "added_tokens_decoder": {"259": {"content": "<|im_end|>", "special": True}},
    "tokenizer_class": "Qwen2Tokenizer",
}
STRANGE = [
    *(None, True, False, 0, -1, 1.5, 2**40, 10**50, "", "a", "\ud800", "\0", "人", "a b"),
    *("<|endoftext|>", [], {}, [[]], [None], {"a": 1}, ["a", "b"], {"type": "NFC"}, 257),
]


def places(value: Any, chooser: random.Random) -> Iterator[tuple[Any, Any]]:
    """Containers and keys within a value; of a large one only some."""
    if isinstance(value, dict | list):
        keys = list(value if isinstance(value, dict) else range(len(value)))
        for key in keys if len(keys) < 30 else chooser.sample(keys, 5):
            yield value, key
            yield from places(value[key], chooser)


def damaged(value: Any, chooser: random.Random) -> Any:
    """A copy in which a place or two hold something else, or nothing."""
    value = copy.deepcopy(value)
    for _ in range(chooser.choice((1, 1, 2))):
        found = list(places(value, chooser))
        if not found:
            break
        container, key = chooser.choice(found)
        act = chooser.random()
        if act < 0.6:
            container[key] = copy.deepcopy(chooser.choice(STRANGE))
        elif act < 0.8:
            del container[key]
        elif isinstance(container, dict):
            container[chooser.choice(("a", "é", "<x>", "kind", "type"))] = chooser.choice(STRANGE)
        else:
            container.append(chooser.choice(STRANGE))
    return value


def damaged_bytes(content: bytes, chooser: random.Random) -> bytes:
    at, act = chooser.randrange(len(content)), chooser.random()
    if act < 0.2:
        return content[:at]
    new = bytes(chooser.choices(b"0123456789=\n AQ\xff\x00", k=chooser.randint(0, 6)))
    return content[:at] + new + content[at + chooser.randint(0, 9) :]


def works_or_is_refused(load: Callable[[], Tokenizer]) -> bool:
    said = ""
    try:
        tokenizer = load()
        tokens = tokenizer.encode("abc e\u0301 <|endoftext|><x> 12")
    except (CheckpointError, TextError) as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 800
    if not said:
        assert not set(tokens) & set(tokenizer.special.ids.values())
        assert tokenizer.decode(tokens)
    return not said


@pytest.fixture
def chooser(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


def test_a_hugging_face_directory(tmp_path: Path, chooser: random.Random) -> None:
    whole = tokenizer_json(PAIRS, SPECIAL.ids)
    good = {
        "tokenizer.json": whole,
        "tokenizer_config.json": CONFIG,
        "generation_config.json": {"eos_token_id": [259, 258]},
    }
    outcomes = set()
    for _ in range(300):
        name = chooser.choice(list(good))
        for file, value in good.items():
            content = damaged(value, chooser) if file == name else value
            (tmp_path / file).write_text(json.dumps(content))
        outcomes.add(works_or_is_refused(lambda: read_tokenizer(tmp_path)))
    assert outcomes == {True, False}


def test_vocab_and_merges(tmp_path: Path, chooser: random.Random) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nab c\n")
    good = {
        "vocab.json": {**TOKENS, "<|endoftext|>": 258},
        "tokenizer_config.json": CONFIG,
        "added_tokens.json": {"<|im_end|>": 259},
    }
    outcomes = set()
    for _ in range(300):
        name = chooser.choice(list(good))
        for file, value in good.items():
            content = damaged(value, chooser) if file == name else value
            (tmp_path / file).write_text(json.dumps(content))
        outcomes.add(works_or_is_refused(lambda: read_tokenizer(tmp_path)))
    assert outcomes == {True, False}


def test_gguf_fields(chooser: random.Random) -> None:
    tokens = [*sorted(TOKENS, key=TOKENS.__getitem__), *SPECIAL.ids]
    good = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL.ids else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert works_or_is_refused(lambda: read_gguf_tokenizer(good, Path("x.gguf")))
    outcomes = set()
    for _ in range(300):
        fields = damaged(good, chooser)
        outcomes.add(works_or_is_refused(lambda f=fields: read_gguf_tokenizer(f, Path("x.gguf"))))
    assert outcomes == {True, False}


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_a_checkpoint(kind: str, tmp_path: Path, chooser: random.Random) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    pairs = PAIRS if kind == "tokenizers" else None
    pattern = QWEN2_PATTERN if pairs else GPT2_PATTERN
    good = Tokenizer(ranks, pattern, SPECIAL, pairs=pairs)
    path = tmp_path / good.file_name
    outcomes = set()
    for number in range(400):
        content, settings = good.file_content(), good.settings()
        if number % 2:
            content = damaged_bytes(content, chooser)
        else:
            settings = damaged(settings, chooser)
        path.write_bytes(content)
        outcomes.add(works_or_is_refused(lambda s=settings: Tokenizer.from_file(path, s)))
    assert outcomes == {True, False}
