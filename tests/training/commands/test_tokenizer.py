"""`penwright-train tokenizer`: merges that compress, in a file that gives the same tokens again."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from model.errors import DataError, UsageError
from model.tokenizer import PATTERN, Tokenizer, byte_of_character
from model.tokenizer.patterns import GPT2_PATTERN, LLAMA3_PATTERN
from training.data import vocabulary
from training.data.vocabulary import load_tokenizer, train_tokenizer


def test_text_survives_and_gets_shorter(tokenizer: Tokenizer, text_file: Path) -> None:
    for text in (text_file.read_text(), "Ünïcode, 12345 and\n\ttabs 👍 <|endoftext|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    text = text_file.read_text()
    assert len(tokenizer.encode(text)) < len(text) / 3
    assert tokenizer.vocab_size == 400
    assert tokenizer.end_token not in tokenizer.encode("<|endoftext|>")


def test_the_saved_file_gives_the_same_tokens(tokenizer: Tokenizer, tokenizer_file: Path) -> None:
    assert load_tokenizer(str(tokenizer_file)).sha256 == tokenizer.sha256


def test_the_command(tmp_path: Path, text_file: Path, cli: Callable[..., tuple[int, str]]) -> None:
    out = tmp_path / "own.tiktoken"
    assert cli("tokenizer", "--data", text_file, "--vocab-size", 300, "--out", out) == (0, "")
    assert load_tokenizer(str(out)).vocab_size == 300


def test_bad_sizes(text_file: Path) -> None:
    with pytest.raises(UsageError, match="--vocab-size is 256"):
        train_tokenizer(["text"], 256)
    with pytest.raises(DataError, match="needs more text"):
        train_tokenizer([text_file.read_text()], 100_000)


def test_missing_settings(tmp_path: Path, tokenizer_file: Path) -> None:
    alone = tmp_path / "own.tiktoken"
    alone.write_bytes(tokenizer_file.read_bytes())
    with pytest.raises(UsageError, match=r"own\.tiktoken\.json is missing"):
        load_tokenizer(str(alone))


def plain_merges(texts: list[str], vocab_size: int, pattern: str) -> dict[str, int]:
    """What Hugging Face's trainer learns of the texts as they are."""
    trainable = tokenizers.Tokenizer(models.BPE())
    trainable.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False
    )
    trainable.train_from_iterator(texts, trainer)
    found: dict[str, int] = trainable.get_vocab()
    return found


def learnt(tokenizer: Tokenizer) -> list[bytes]:
    """Tokens of several bytes, in the order in which they were learnt."""
    return sorted(tokenizer.ranks, key=lambda token: tokenizer.ranks[token])[256:]


@pytest.mark.parametrize("pattern", [PATTERN, GPT2_PATTERN, LLAMA3_PATTERN])
def test_ordinary_text_gives_the_merges_that_it_always_gave(text_file: Path, pattern: str) -> None:
    """Long lines without a blank among it, as of languages that have none: no piece is long."""
    words = random.Random(1).choices("日本語は難しい。とても、楽しい！", k=5000)
    texts = [text_file.read_text(), "".join(words), "a-b_c;" * 500, "word" + " \n" * 200 + "word"]
    plain = plain_merges(texts, 420, pattern)
    to_byte = byte_of_character()
    wanted = [
        bytes(to_byte[c] for c in token)
        for token, _ in sorted(plain.items(), key=lambda item: item[1])
        if len(token) > 1
    ]
    assert learnt(train_tokenizer(texts, 420, pattern)) == wanted


@pytest.mark.parametrize("character", ["x", "-", " ", "\n", "é"])
def test_a_piece_without_end_is_cut(
    character: str, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No text that the trainer gets has a piece above the bound, and none is lost."""
    text = f"one {character * 5000} two {character * 700}"
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
    cutter = vocabulary._Cutter(split)
    parts = list(cutter.cut([text, "three"]))
    assert "".join(parts) == text + "three"
    assert cutter.pieces == 2
    for part in parts:
        assert max(end - start for _, (start, end) in split.pre_tokenize_str(part)) <= 513
    train_tokenizer([text_file.read_text(), text], 300)
    said = "2 stretches of text without a break are longer than 512 characters; for learning they"
    assert said in capsys.readouterr().err


def test_progress_is_shown(
    text_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_SHOW_AFTER", 0.0)
    train_tokenizer([text_file.read_text()], 300)
    assert "learning merges" in capsys.readouterr().err
