"""Every vocabulary gives the tokens that Hugging Face's `tokenizers` gives with the same files.

The vocabulary of SmolLM2 comes from its GGUF file.
"""

import json
import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer

from model.checkpoint import load_base
from model.convert.gguf_file import read_header
from model.convert.gguf_tokenizer import read_tokenizer as read_gguf_tokenizer
from model.errors import TextError
from model.tokenizer import GPT2_PATTERN, PATTERN, StreamDecoder, Tokenizer
from model.tokenizer.files import tokenizer_json
from model.tokenizer.hugging_face import read_tokenizer
from model.tokenizer.merges import BytePairs
from model.tokenizer.patterns import LLAMA3_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN
from tests.e2e.server import SCRATCH

HARD = (
    "",
    " ",
    "\0 \0\0a\0",
    "a\r\nb\r\n\r\nc\rd\n\re \r\n f",
    "\t\tif x:\n\t\t\treturn 1\n        else:\n    pass\n\n\n\n  # end  ",
    "     5  55   555 a 5 a  5  a   5 \n5 \n 5\t5",
    "1 22 333 4444 55555 666666 1234567890123456789012345678901234567890 3.14e-10 1,234,567.89",
    "٣٤٥ ४५६ ௧௨ ๓๔ 〇一二 Ⅷ ½ ²³ 𝟘𝟙𝟚 ①② ٪٣",
    "I'll we've he's don't I'm they're she'd I'LL WE'VE HE'S DON'T I'M THEY'RE SHE'D i'Ll 'ſ 'K",
    "' '' ''' 's 's's 'll' 't\u200ds \" \"\" «» ‘s’ ’s `a`",
    "a\u2028b\u2029c\u0085d \u2028 \u0085 \u0085\u0085e\u00a0f\u2003\u3000g\u200b\u2060\ufeff",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈🇩🇪🇫🇷 ☃️ \U0001f9ff 👩🏿‍🚀x👩🏿‍🚀 ❤️‍🔥",
    "e\u0301 a\u0300\u0323 \u0301 x\u0338= q\u0307\u0323 Å Å K ﬁ ǆ 각 각",
    "עברית שָׁלוֹם العربية مُحَمَّد \u202eabc\u202c فارسی ۱۲۳",
    "हिन्दी क्षत्रिय ไทย ภาษาไทย 日本語のテキスト 한국어 中文字符 ქართული አማርኛ ᏣᎳᎩ",
    "def f(x: int) -> dict[str, int]:\n    return {'a': x ** 2}  # ok!!\n",
    "<tag attr='v'/> \\o/ ¯\\_(ツ)_/¯ https://example.org/?q=a+b&c=%20#x ......!!!!!???? ----",
    " " * 300 + "x" + " " * 17 + "\n" * 40 + " " * 5,
    "\x01\x02\x04\x06\x13\x14\x16\x1d\x7f\x80\xad\xff\ufffd\U0010ffff\ue000\ufffe",
    "supercalifragilisticexpialidocious " * 3 + "a" * 500 + "ab" * 200,
    "\udc80x\ud800",
)
CORPUS = [*HARD[:-1], Path(__file__).read_text(encoding="utf-8")] * 3

NEWER_DIGITS = {chr(code) for code in (*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7))}
"""Numerals for one part of `tokenizers` and for no other program (see `SMOLLM_PATTERN`)."""

PIECES = (
    *("the", "The", " and", "naïve", "x", "Straße", "русский", "日本", "한", "שלום", "مرحبا"),
    *("'s", "'S", "'ll", "'RE", "'", '"', "’", "don't", "\r\n", "\n", "\n\n", "\r", "\t", "  "),
    *(" ", " ", " ", "   ", "\u00a0", "\u3000", "\u2028", "\u0085", "\0", "\x1c", "\u200b"),
    *("0", "7", "12", "345", "6789", "٣", "५", "½", "Ⅷ", "²", "𝟘", ".", ",", "!", "?", "--", "…"),
    *("👍", "🏽", "\u200d", "\ufe0f", "👩", "🇩", "🇪", "e\u0301", "\u0301", "\u0323", "a\u0300"),
    *("{", "}", "()", "=>", "+=", "//", "#", "<|", "|>", "<", ">", "_", "\\", "$", "€", "£"),
)


def generated(count: int, seed: int = 7) -> list[str]:
    """Texts of such pieces and of characters from all of Unicode."""
    chooser = random.Random(seed)

    def piece() -> str:
        if chooser.random() < 0.8:
            return chooser.choice(PIECES) * chooser.choice((1, 1, 1, 1, 2, 5))
        last = chooser.choice((0x80, 0x500, 0x3000, 0x10000, 0x20000, 0x110000))
        character = chr(chooser.randrange(last))
        plain = unicodedata.category(character) != "Cs" and character not in NEWER_DIGITS
        return character if plain else "?"

    return ["".join(piece() for _ in range(chooser.randint(1, 40))) for _ in range(count)]


TEXTS = (*HARD, *generated(500))


def characters() -> list[str]:
    """Every assigned character, and a sample of the large uniform blocks and the others."""
    codes = (*range(0xD800), *range(0xE000, 0x110000))
    return [
        chr(code)
        for code in codes
        if code % 97 == 0
        or not (
            0x3400 <= code < 0xA000
            or 0xAC00 <= code < 0xD800
            or code >= 0x1FC00
            or unicodedata.category(chr(code)) in ("Cn", "Co")
        )
    ]


def their_tokens(peer: Peer, text: str) -> list[int]:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    tokens: list[int] = peer.encode(whole, add_special_tokens=False).ids
    return tokens


def assert_equal(ours: Tokenizer, peer: Peer, texts: Sequence[str] = TEXTS) -> int:
    """Ours gives the same tokens, or refuses what theirs drops; returns how many it refuses."""
    refused = 0
    whole = []
    for text in texts:
        wanted = their_tokens(peer, text)
        try:
            tokens = ours.encode(text)
        except TextError as error:
            check_refusal(str(error), ours, text, wanted)
            refused += 1
            continue
        assert tokens == wanted, text
        assert max(tokens, default=0) < ours.vocab_size
        assert not set(tokens) & set(ours.special.ids.values())
        decoder = StreamDecoder(ours)
        streamed = "".join(map(decoder.push, tokens)) + decoder.flush()
        assert streamed == ours.decode(tokens)
        whole.append((text, tokens))
    assert ours.encode_batch([text for text, _ in whole], threads=2) == [t for _, t in whole]
    return refused


def check_refusal(message: str, ours: Tokenizer, text: str, wanted: list[int]) -> None:
    """It names a character of the text, some byte of which theirs has dropped."""
    assert "has no token for U+" in message
    named = chr(int(message.split("U+")[1].split(" ")[0], 16))
    nfc = ours.pairs is not None and ours.pairs.nfc
    whole = unicodedata.normalize("NFC", text) if nfc else text
    assert named in whole
    assert not set(named.encode()).isdisjoint(ours.missing_bytes)
    assert len(b"".join(map(ours.token_bytes, wanted))) < len(whole.encode())


def restored(tokenizer: Tokenizer, directory: Path) -> Tokenizer:
    """Written into a checkpoint and read again."""
    (directory / tokenizer.file_name).write_bytes(tokenizer.file_content())
    settings = json.loads(json.dumps(tokenizer.settings()))
    again = Tokenizer.from_file(directory / tokenizer.file_name, settings)
    assert again.sha256 == tokenizer.sha256
    assert again.special == tokenizer.special
    assert again.vocab_size == tokenizer.vocab_size
    assert again.file_content() == tokenizer.file_content()
    assert Tokenizer.from_file(directory, settings).sha256 == tokenizer.sha256
    return again


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str) -> Any:
    parts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), BYTES]
    return pre_tokenizers.Sequence(parts)


SPLITS: dict[str, tuple[Any, str]] = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), GPT2_PATTERN),
    "llama-3": (split(LLAMA3_PATTERN), LLAMA3_PATTERN),
    "qwen2": (split(QWEN2_PATTERN), QWEN2_PATTERN),
    "smollm2": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        ),
        SMOLLM_PATTERN,
    ),
    "ours": (split(PATTERN), PATTERN),
    "another": (split(r" ?\p{L}+|\s+"), r" ?\p{L}+|\s+"),
}


def trained(pre_tokenizer: Any, *, nfc: bool = False, size: int = 700) -> Peer:
    peer = Peer(models.BPE())
    peer.pre_tokenizer = pre_tokenizer
    if nfc:
        peer.normalizer = normalizers.NFC()
    peer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return peer


def saved(
    peer: Peer, directory: Path, change: Callable[[dict[str, Any]], object] = lambda _: None
) -> tuple[Tokenizer, Peer]:
    """Ours and theirs, both from one tokenizer.json, after a change to it."""
    path = directory / "tokenizer.json"
    content = json.loads(peer.to_str())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_tokenizer(directory), Peer.from_file(str(path))


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
@pytest.mark.parametrize("name", SPLITS)
def test_a_trained_vocabulary(name: str, nfc: bool, tmp_path: Path) -> None:
    pre_tokenizer, pattern = SPLITS[name]
    ours, peer = saved(trained(pre_tokenizer, nfc=nfc), tmp_path)
    assert ours.pattern == pattern
    assert (ours.file_name == "tokenizer.json") == (nfc or name == "another")
    assert ours.vocab_size == 700
    assert assert_equal(ours, peer) == 0
    assert_equal(restored(ours, tmp_path), peer, HARD)
    if not nfc:
        assert all(ours.decode(ours.encode(text)) == text for text in HARD[:-1])


@pytest.mark.parametrize("name", ["gpt-2", "llama-3", "qwen2", "smollm2", "ours"])
def test_both_libraries_agree(name: str, tmp_path: Path) -> None:
    """The pattern alone, in both: single bytes, and whole pieces as tokens where they are bytes."""
    pattern = SPLITS[name][1]
    ours, _ = saved(trained(split(pattern)), tmp_path)
    assert ours.pairs is None
    peer = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    merges = [tuple(pair) for pair in peer["model"]["merges"]]
    pairs = BytePairs.of(peer["model"]["vocab"], merges, pattern, ours.special.ids)
    other = Tokenizer(ours.ranks, pattern, ours.special, pairs=pairs)
    assert other.file_name == "tokenizer.json"
    for text in (*TEXTS, *generated(500, seed=8)):
        assert ours.encode(text) == other.encode(text)
    everything = "a 1 ".join(characters())
    assert ours.encode(everything) == other.encode(everything)


def test_smollm2_digits_of_all_of_unicode(tmp_path: Path) -> None:
    """Our single expression cuts as the two steps of SmolLM2's own file do."""
    ours, peer = saved(trained(SPLITS["smollm2"][0]), tmp_path)
    for form in ("  {}", "a{}  {}b", " {} \n{}"):
        text = "".join(form.format(c, c) for c in characters() if c not in NEWER_DIGITS)
        assert ours.encode(text) == their_tokens(peer, text)


class TestMerges:
    """Merge lists that ids do not tell."""

    def write(self, merges: list[list[str]], directory: Path, **model: Any) -> Path:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = [*alphabet, *dict.fromkeys("".join(pair) for pair in merges), "<|endoftext|>"]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        pairs = BytePairs.of(
            vocabulary,
            [(left, right) for left, right in merges],
            GPT2_PATTERN,
            {"<|endoftext|>": len(tokens) - 1},
        )
        content = tokenizer_json(pairs, {"<|endoftext|>": len(tokens) - 1})
        content["model"].update(model)
        (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return directory

    def test_a_token_that_is_not_made_by_its_listed_pair(self, tmp_path: Path) -> None:
        directory = self.write([["a", "b"], ["b", "c"], ["a", "bc"]], tmp_path)
        peer, ours = Peer.from_file(str(directory / "tokenizer.json")), read_tokenizer(directory)
        assert ours.encode("abc") == their_tokens(peer, "abc") == [256, ours.encode("c")[0]]
        naive = Tokenizer(ours.ranks, GPT2_PATTERN, ours.special)
        assert naive.encode("abc") == [258], "tiktoken alone has another answer"
        assert_equal(ours, peer, HARD)

    def test_pieces_that_are_tokens(self, tmp_path: Path) -> None:
        """As Llama 3 has it: a whole piece is looked up before anything is merged."""
        merges = [["a", "b"], ["b", "c"], ["a", "bc"]]
        directory = self.write(merges, tmp_path, ignore_merges=True)
        peer, ours = Peer.from_file(str(directory / "tokenizer.json")), read_tokenizer(directory)
        assert ours.encode("abc abc") == their_tokens(peer, "abc abc")
        assert ours.encode("abc") == [258]
        assert_equal(restored(ours, tmp_path), peer, HARD)

    def test_several_pairs_for_one_token(self, tmp_path: Path) -> None:
        """Llama 3's list has every pair that makes a token."""
        merges = [["a", "a"], ["a", "b"], ["a", "aa"], ["aa", "a"], ["aa", "b"], ["a", "ab"]]
        directory = self.write(merges, tmp_path)
        peer, ours = Peer.from_file(str(directory / "tokenizer.json")), read_tokenizer(directory)
        for number in range(3000):
            text = "".join(random.Random(number).choices("ab ", k=12))
            assert ours.encode(text) == their_tokens(peer, text)

    def test_small_lists_of_any_pairs(self, tmp_path: Path) -> None:
        for seed in range(150):
            chooser = random.Random(seed)
            pool, merges = list("abc"), []
            for _ in range(chooser.randint(1, 8)):
                pair = [chooser.choice(pool), chooser.choice(pool)]
                pool.append("".join(pair))
                merges.append(pair)
            directory = self.write(merges, tmp_path)
            peer = Peer.from_file(str(directory / "tokenizer.json"))
            ours = read_tokenizer(directory)
            texts = ["".join(chooser.choices("abc", k=chooser.randint(1, 9))) for _ in range(60)]
            assert_equal(ours, peer, texts)

    def test_ids_in_another_order_than_the_merges(self, tmp_path: Path) -> None:
        def swap(content: dict[str, Any]) -> None:
            vocabulary = content["model"]["vocab"]
            for left, right in (("Ġt", "Ġthe"), ("in", "er")):
                vocabulary[left], vocabulary[right] = vocabulary[right], vocabulary[left]

        ours, peer = saved(trained(SPLITS["gpt-2"][0]), tmp_path, swap)
        assert ours.file_name == "tokenizer.json"
        assert_equal(ours, peer)


class TestAddedTokens:
    """Tokens that stand in a text as they are, such as Qwen's <tool_call>."""

    @pytest.mark.parametrize("nfc", [False, True])
    def test_they_are_text(self, nfc: bool, tmp_path: Path) -> None:
        peer = trained(SPLITS["qwen2"][0], nfc=nfc)
        added = ["<tool_call>", "</tool_call>", "<tool", "  ", "é!"]
        peer.add_tokens([AddedToken(text, normalized=False) for text in added])
        peer.add_tokens([AddedToken("ångström>", normalized=True)])
        peer.add_special_tokens(["<|more|>"])
        ours, peer = saved(peer, tmp_path)
        assert "<|more|>" in ours.special.ids
        assert not set(added) & ours.special.ids.keys()
        texts = [
            *(f"a{text}b {text} {text}{text}" for text in added),
            "<tool_call>{}</tool_call>\n<tool_calls><tool <tool_call>\u0338 e\u0301! é!",
            "ångström> a\u030angstro\u0308m> A",
        ]
        assert_equal(ours, peer, [*texts, *TEXTS])
        assert ours.decode(ours.encode("x<tool_call>y")) == "x<tool_call>y"
        assert ours.token_name(ours.encode("<tool_call>")[0]) == "<tool_call>"
        assert_equal(restored(ours, tmp_path), peer, texts)

    def test_special_tokens_between_them_are_ordinary_text(self, tmp_path: Path) -> None:
        peer = trained(SPLITS["llama-3"][0])
        peer.add_tokens([AddedToken("<tool_call>", normalized=False)])
        ours, peer = saved(
            peer, tmp_path, lambda content: content["model"].update(ignore_merges=True)
        )
        peer.encode_special_tokens = True
        text = "<|im_start|>user<tool_call><|endoftext|> <|im_end|>"
        assert ours.encode(text) == their_tokens(peer, text)
        assert not set(ours.encode(text)) & set(ours.special.ids.values())
        for name in ours.special.ids:
            assert not set(ours.encode(name)) & set(ours.special.ids.values())


def test_bytes_without_a_token(tmp_path: Path) -> None:
    """Theirs drops them; ours names the character, in both libraries."""

    def drop(content: dict[str, Any], nfc: bool) -> None:
        # Of é, of all that begins with U+0180 to U+01FF, and of a control character.
        gone = ["©", "Ĩ", "Æ"]
        gone = [c for c in gone if c in content["model"]["vocab"]]
        model = content["model"]
        model["merges"] = [p for p in model["merges"] if not set(gone) & set("".join(p))]
        made = {"".join(p) for p in model["merges"]}
        model["vocab"] = {
            token: i
            for token, i in model["vocab"].items()
            if token not in gone and (len(token) == 1 or token in made or token.startswith("<|"))
        }
        content["normalizer"] = {"type": "NFC"} if nfc else None

    for nfc in (False, True):
        ours, peer = saved(trained(SPLITS["smollm2"][0]), tmp_path, partial(drop, nfc=nfc))
        assert len(ours.missing_bytes) == 3
        assert ours.file_name == ("tokenizer.json" if nfc else "tokenizer.tiktoken")
        for one in (ours, restored(ours, tmp_path)):
            for text, named in (("caf\u00e9!", "U+00E9 'é'"), ("a 1ƀ", "U+0180")):
                with pytest.raises(TextError) as caught:
                    one.encode(text)
                assert named in str(caught.value)
                with pytest.raises(TextError):
                    one.encode_batch(["a", text])
            assert one.encode("abc") == their_tokens(peer, "abc")
        if nfc:
            with pytest.raises(TextError, match=r"U\+00E9"):
                ours.encode("e\u0301")
        assert assert_equal(ours, peer) > 20


@pytest.fixture(scope="module")
def smollm2_fields(smollm2_file: Path) -> Mapping[str, Any]:
    fields: dict[str, Any] = read_header(smollm2_file).fields
    return fields


@pytest.fixture(scope="module")
def smollm2(smollm2_fields: Mapping[str, Any]) -> Tokenizer:
    return read_gguf_tokenizer(smollm2_fields, Path("smollm2.gguf"))


@pytest.fixture(scope="module")
def smollm2_peer(smollm2_fields: Mapping[str, Any], smollm2: Tokenizer) -> Peer:
    """As the tokenizer.json that the model's authors published has it."""
    tokens = smollm2_fields["tokenizer.ggml.tokens"]
    merges = [tuple(line.split(" ")) for line in smollm2_fields["tokenizer.ggml.merges"]]
    peer = Peer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    peer.pre_tokenizer = SPLITS["smollm2"][0]
    peer.add_special_tokens(list(smollm2.special.ids))
    assert peer.get_vocab_size() == 49152
    return peer


class TestSmolLM2:
    def test_special_tokens(self, smollm2: Tokenizer) -> None:
        special = smollm2.special
        assert (special.beginning, special.adds_beginning) == (1, False)
        assert (special.end_of_document, special.end_of_turn, special.pad) == (0, 2, 2)
        assert special.stop == (0, 2)
        assert len(special.ids) == 17
        assert smollm2.vocab_size == 49152
        assert len(smollm2.missing_bytes) == 21
        for name in special.ids:  # nobody can write one
            tokens = smollm2.encode(f"a{name}b")
            assert not set(tokens) & set(special.ids.values())
            assert smollm2.decode(tokens) == f"a{name}b"

    def test_texts(self, smollm2: Tokenizer, smollm2_peer: Peer, tmp_path: Path) -> None:
        assert smollm2.file_name == "tokenizer.tiktoken"
        refused = assert_equal(smollm2, smollm2_peer)
        assert 0 < refused < len(TEXTS) / 2
        assert_equal(restored(smollm2, tmp_path), smollm2_peer, HARD)

    def test_with_the_other_library(
        self, smollm2: Tokenizer, smollm2_peer: Peer, smollm2_fields: Mapping[str, Any]
    ) -> None:
        tokens = enumerate(smollm2_fields["tokenizer.ggml.tokens"])
        lines = smollm2_fields["tokenizer.ggml.merges"]
        merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
        vocabulary = {token: i for i, token in tokens}
        pairs = BytePairs.of(vocabulary, merges, smollm2.pattern, smollm2.special.ids)
        other = Tokenizer(smollm2.ranks, smollm2.pattern, smollm2.special, pairs=pairs)
        assert assert_equal(other, smollm2_peer) == assert_equal(smollm2, smollm2_peer)

    def test_every_token(self, smollm2: Tokenizer, smollm2_peer: Peer) -> None:
        names = [smollm2.token_bytes(token).decode("utf-8", "ignore") for token in range(49152)]
        text = "|".join(names)
        assert smollm2.encode(text) == their_tokens(smollm2_peer, text)
        assert smollm2.decode(smollm2.encode(text)) == text


def test_gpt2(gpt2_files: Path, tmp_path: Path) -> None:
    ours = read_tokenizer(gpt2_files)
    vocabulary = json.loads((gpt2_files / "vocab.json").read_text(encoding="utf-8"))
    lines = (gpt2_files / "merges.txt").read_text(encoding="utf-8").strip().split("\n")[1:]
    peer = Peer(models.BPE(vocabulary, [tuple(line.split(" ")) for line in lines]))
    peer.pre_tokenizer = SPLITS["gpt-2"][0]
    assert ours.pairs is None
    assert assert_equal(ours, peer) == 0
    assert_equal(restored(ours, tmp_path), peer, HARD)


def test_our_own_vocabulary(tmp_path: Path) -> None:
    from model.convert.bpe_files import write_tokenizer

    ours = load_base(SCRATCH / "base").tokenizer
    write_tokenizer(tmp_path, ours, {})
    peer = Peer.from_file(str(tmp_path / "tokenizer.json"))
    assert assert_equal(ours, peer) == 0
    assert_equal(read_tokenizer(tmp_path), peer, HARD)
