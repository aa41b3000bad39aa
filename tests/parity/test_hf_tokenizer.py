"""An imported tokenizer encodes as `transformers` does with the same files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from model.convert.bpe_files import merges
from model.errors import CheckpointError
from model.tokenizer import Tokenizer, byte_of_character
from model.tokenizer.hugging_face import read_tokenizer

TEXTS = (
    "Hello, I am",
    "",
    " ",
    "   leading, trailing   ",
    "a\n\n\nb\t\tc \r\n  d\u00a0e\u2003f\u3000g\x85h\u2028i",
    "I'll we've he's don't I'M YOU'RE they'd 's't",
    "def f(x: int) -> dict[str, int]:\n    return {'a': x ** 2}  # ok!!\n",
    "1 22 333 4444 1,234,567.89 3.14e-10 ½ ² Ⅷ ٣",
    "naïve café Straße ÆØÅ ﬁ ǅ",
    "Ελληνικά русский עברית العربية हिन्दी ไทย 日本語 한국어 中文",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 ☃ \U0001f9ff e\u0301 a\u0300\u0323 \u200b\u200d\ufeff",
    "\x00\x01\x7f\x80\xad\xff\ufffd\U0010ffff",
    "https://example.org/?q=a+b&c=%20#x  <tag attr='v'/> \\o/ ¯\\_(ツ)_/¯",
    "supercalifragilisticexpialidocious antidisestablishmentarianism " * 3,
    "......!!!!!???? ---- ==== ~~~~ ____",
    "<|endoftext",
)


@pytest.fixture(scope="module")
def gpt2(gpt2_files: Path) -> Tokenizer:
    return read_tokenizer(gpt2_files)


@pytest.fixture(scope="module")
def peer(gpt2_files: Path) -> Any:
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(gpt2_files)
    assert len(tokenizer) == 50257
    return tokenizer


def test_known_ids(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello, I am") == [15496, 11, 314, 716]
    assert gpt2.vocab_size == 50257
    assert gpt2.end_token == 50256


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_texts(gpt2: Tokenizer, peer: Any, text: str) -> None:
    tokens = gpt2.encode(text)
    assert tokens == peer.encode(text)
    assert gpt2.decode(tokens) == text


@settings(derandomize=True, max_examples=200, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: "<|endoftext|>" not in text))
def test_any_text(gpt2: Tokenizer, peer: Any, text: str) -> None:
    assert gpt2.encode(text) == peer.encode(text)


def test_every_token_alone(gpt2: Tokenizer, peer: Any) -> None:
    """The text of each token that is whole characters, and a few joined: all merges are met."""
    pieces = [gpt2.token_bytes(token).decode("utf-8", "ignore") for token in range(50256)]
    text = "|".join(pieces[::7])
    assert gpt2.encode(text) == peer.encode(text)
    assert [gpt2.encode(piece) for piece in pieces[::50]] == peer(pieces[::50])["input_ids"]


def test_the_end_token_in_text_is_ordinary_here(gpt2: Tokenizer, peer: Any) -> None:
    assert gpt2.end_token in peer.encode("a<|endoftext|>b")
    assert gpt2.end_token not in gpt2.encode("a<|endoftext|>b")


def test_tokenizer_json_gives_the_same(gpt2: Tokenizer, peer: Any, tmp_path: Path) -> None:
    """What transformers saves of the tokenizer that it built from the two files."""
    peer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    assert read_tokenizer(tmp_path).sha256 == gpt2.sha256


def test_the_checkpoint_form_gives_the_same(gpt2: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.tiktoken"
    path.write_bytes(gpt2.file_content())
    again = Tokenizer.from_file(path, json.loads(json.dumps(gpt2.settings())))
    assert again.sha256 == gpt2.sha256
    assert [again.encode(text) for text in TEXTS] == [gpt2.encode(text) for text in TEXTS]


def test_the_merges_are_found_again(gpt2: Tokenizer, gpt2_files: Path) -> None:
    """From ids alone: all 50,000, in their order, as OpenAI's file has them."""
    lines = (gpt2_files / "merges.txt").read_text(encoding="utf-8").strip().split("\n")[1:]
    assert [" ".join(pair) for pair in merges(gpt2)] == lines


class TestOwnVocabulary:
    """Vocabularies that `tokenizers` trains, with a special token in front and with a Split."""

    @pytest.fixture(params=["byte-level", "split"])
    def saved(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trainable

        theirs = Trainable(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if request.param == "split":
            theirs.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+|."), behavior="isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        theirs.train_from_iterator(
            TEXTS * 3,
            trainers.BpeTrainer(
                vocab_size=400,
                special_tokens=["<|endoftext|>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        theirs.save(str(tmp_path / "tokenizer.json"))
        return theirs, tmp_path

    def test_texts(self, saved: tuple[Any, Path]) -> None:
        theirs, directory = saved
        ours = read_tokenizer(directory)
        assert ours.end_token == 0
        assert ours.vocab_size == 400
        for text in TEXTS:
            assert ours.encode(text) == theirs.encode(text).ids
            assert ours.decode(ours.encode(text)) == text

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t.update(normalizer={"type": "NFKC"}), "normalizer"),
            (lambda t: t["model"].update(type="WordPiece"), "WordPiece"),
            (lambda t: t["model"].update(type="Unigram"), "SentencePiece"),
            (lambda t: t["model"].update(byte_fallback=True), "byte_fallback is True"),
            (lambda t: t["model"].update(byte_fallback=0), "byte_fallback is 0"),
            (lambda t: t["model"].update(dropout=0.1), "dropout"),
            (lambda t: t["model"].update(continuing_subword_prefix="##"), "continuing_subword"),
            (lambda t: t["model"].update(ignore_merges="yes"), "ignore_merges"),
            (lambda t: t["model"]["merges"].append(["q", "Ω"]), "merge"),
            (lambda t: t["model"]["merges"].append("a b c"), "'a b c' is no pair"),
            (lambda t: t["model"]["merges"].append(5), "merge 5"),
            (lambda t: t["model"]["merges"].append(["a"]), "is no pair"),
            (lambda t: t["model"].update(merges={}), "merges"),
            (lambda t: t["model"]["vocab"].pop("t"), "merge"),
            (lambda t: t["model"]["vocab"].update({"!": "1"}), "'1'"),
            (lambda t: t["model"]["vocab"].update({"!": -1}), "-1"),
            (lambda t: t["model"]["vocab"].update({"!": 2**40}), str(2**40)),
            (lambda t: t["model"]["vocab"].update({"!": 50}), "the id 50 stands for"),
            (lambda t: t["model"]["vocab"].update({"人": 400}), "人"),
            (lambda t: t["model"].pop("vocab"), "vocab"),
            (lambda t: t.pop("model"), "model"),
            (lambda t: t.update(model=[]), "model"),
            (lambda t: t["added_tokens"].clear() or t["model"]["vocab"].pop("<|endoftext|>"), "<|"),
            (lambda t: t["added_tokens"][0].update(id=401), "has the id 401, but 0"),
            (lambda t: t["added_tokens"][0].update(id="0"), "id is '0'"),
            (lambda t: t["added_tokens"][0].update(special=1), "special is 1"),
            (lambda t: t["added_tokens"].append(3), "added_tokens"),
            (lambda t: t["added_tokens"].append(t["added_tokens"][0]), "twice"),
            (
                lambda t: t["added_tokens"].append(
                    {"id": 500, "content": "<x>", "special": False, "lstrip": True}
                ),
                "lstrip",
            ),
            (
                lambda t: t["added_tokens"].append({"id": 8, "content": "<x>", "special": False}),
                "the id 8 stands for",
            ),
            (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
            (
                lambda t: t.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}),
                "pre_tokenizer",
            ),
            (lambda t: t.update(pre_tokenizer=None), "pre_tokenizer"),
            (lambda t: t.update(decoder={"type": "Metaspace"}), "decoder"),
            (
                lambda t: t.update(
                    post_processor={
                        "type": "TemplateProcessing",
                        "single": [{"Sequence": {}}, {"SpecialToken": {"id": "<|endoftext|>"}}],
                    }
                ),
                "post_processor",
            ),
            (
                lambda t: t.update(
                    post_processor={
                        "type": "TemplateProcessing",
                        "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {}}],
                    }
                ),
                "post_processor puts 'a' before each text",
            ),
            (lambda t: t.update(post_processor={"type": "BertProcessing"}), "BertProcessing"),
        ],
    )
    def test_refusals(
        self, saved: tuple[Any, Path], change: Callable[[Any], object], said: str
    ) -> None:
        path = saved[1] / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
            read_tokenizer(saved[1])
        assert said in str(caught.value)

    def test_what_was_refused_once(self, saved: tuple[Any, Path]) -> None:
        """Merges in another order, pieces looked up whole, NFC, tokens that nothing makes."""
        from tokenizers import Tokenizer as Peer

        path = saved[1] / "tokenizer.json"
        before = path.read_text(encoding="utf-8")
        changes: list[Callable[[Any], object]] = [
            lambda t: t.update(normalizer={"type": "NFC"}),
            lambda t: t["model"].update(ignore_merges=True),
            lambda t: t["model"]["merges"].reverse(),
            lambda t: t["model"]["merges"].pop(),
            lambda t: t["added_tokens"].append(
                {
                    **t["added_tokens"][0],
                    "id": 400,
                    "content": "(x: int)",
                    "special": False,
                }
            ),
        ]
        for change in changes:
            content = json.loads(before)
            change(content)
            path.write_text(json.dumps(content), encoding="utf-8")
            ours, theirs = read_tokenizer(saved[1]), Peer.from_file(str(path))
            for text in TEXTS:
                assert ours.encode(text) == theirs.encode(text).ids

    @pytest.mark.parametrize("name", ["add_prefix_space", "add_eos_token"])
    def test_what_would_be_added_is_refused(self, saved: tuple[Any, Path], name: str) -> None:
        (saved[1] / "tokenizer_config.json").write_text(json.dumps({name: True}))
        with pytest.raises(CheckpointError, match=name):
            read_tokenizer(saved[1])


class TestRoles:
    """What the special tokens are for, from the files that say it."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """Bytes; <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258, <extra> 259 in vain."""
        tokens = [*sorted(byte_of_character()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        added = [{"id": i, "content": tokens[i], "special": True} for i in range(256, len(tokens))]
        content = {
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "post_processor": None,
            "decoder": {"type": "ByteLevel"},
            "model": {
                "type": "BPE",
                "vocab": {t: i for i, t in enumerate([*tokens, "<extra>"])},
                "merges": [],
            },
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    def write(self, directory: Path, name: str, **values: object) -> None:
        (directory / name).write_text(json.dumps(values))

    def test_nothing_is_said(self, directory: Path) -> None:
        special = read_tokenizer(directory).special
        assert (special.beginning, special.end_of_document, special.pad) == (256, 256, 256)
        assert (special.end_of_turn, special.stop, special.adds_beginning) == (
            258,
            (256, 258),
            False,
        )

    def test_all_is_said(self, directory: Path) -> None:
        self.write(
            directory,
            "tokenizer_config.json",
            bos_token="<|im_start|>",
            eos_token={"content": "<|im_end|>", "lstrip": False},
            pad_token="<extra>",
            add_bos_token=True,
        )
        self.write(directory, "config.json", eos_token_id=258, bos_token_id=3)
        self.write(directory, "generation_config.json", eos_token_id=[259, 50256, 256])
        tokenizer = read_tokenizer(directory)
        special = tokenizer.special
        assert (special.beginning, special.end_of_document, special.pad) == (257, 256, 259)
        assert special.stop == (256, 258, 259), "50256 is a default that nobody adapted"
        assert special.adds_beginning
        assert special.ids["<extra>"] == 259
        assert tokenizer.encode_prompt("a")[0] == 257
        assert 259 not in tokenizer.encode("<extra>")

    def test_a_template_that_begins_each_text(self, directory: Path) -> None:
        """As in Llama 3's files."""
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
        template = {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "<|im_start|>": {"id": "<|im_start|>", "ids": [257], "tokens": ["<|im_start|>"]}
            },
        }
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": False,
            "use_regex": True,
        }
        content["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
        path.write_text(json.dumps(content), encoding="utf-8")
        special = read_tokenizer(directory).special
        assert (special.beginning, special.adds_beginning) == (257, True)
        for said in ({"add_bos_token": False}, {"bos_token": "<|im_end|>"}):
            self.write(directory, "tokenizer_config.json", **said)
            with pytest.raises(CheckpointError, match="post_processor puts"):
                read_tokenizer(directory)

    @pytest.mark.parametrize(
        ("name", "values", "said"),
        [
            ("tokenizer_config.json", {"bos_token": "<none>"}, "bos_token is '<none>'"),
            ("tokenizer_config.json", {"eos_token": 3}, "eos_token is 3"),
            ("tokenizer_config.json", {"pad_token": {"text": "a"}}, "pad_token is"),
            ("tokenizer_config.json", {"eos_token": "a"}, "that of a byte"),
            ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token is 'yes'"),
            ("config.json", {"eos_token_id": 3}, "eos_token_id is 3, but 3 is an ordinary token"),
            ("config.json", {"eos_token_id": [256, "x"]}, "eos_token_id is [256, 'x']"),
            ("config.json", {"eos_token_id": -1}, "eos_token_id is -1"),
            ("generation_config.json", {"eos_token_id": True}, "eos_token_id is True"),
            ("generation_config.json", {"eos_token_id": 1.5}, "eos_token_id is 1.5"),
        ],
    )
    def test_refusals(
        self, directory: Path, name: str, values: dict[str, object], said: str
    ) -> None:
        self.write(directory, name, **values)
        with pytest.raises(CheckpointError) as caught:
            read_tokenizer(directory)
        assert said in str(caught.value)
        assert str(directory) in str(caught.value)


class TestTwoFiles:
    """`vocab.json` and `merges.txt`, which leave the pattern to a class."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        tokens = [*sorted(byte_of_character()), "ab", "<|endoftext|>"]
        (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
        (tmp_path / "merges.txt").write_bytes(b"\xef\xbb\xbf#version: 0.2\r\na b\r\n")
        return tmp_path

    def test_qwen2(self, directory: Path) -> None:
        added = {"<|im_end|>": 258, "<tool_call>": 259}
        (directory / "added_tokens.json").write_text(json.dumps(added))
        decoder = {
            "258": {"content": "<|im_end|>", "special": True},
            "259": {"content": "<tool_call>", "special": False, "normalized": False},
            "260": {"content": "<|vision|>", "special": True},
        }
        config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = read_tokenizer(directory)
        special = {"<|endoftext|>": 257, "<|im_end|>": 258, "<|vision|>": 260}
        assert tokenizer.special.ids == special
        assert tokenizer.encode("ab<tool_call>e\u0301") == [
            256,
            259,
            *tokenizer.encode("\u00e9"),
        ]
        assert len(tokenizer.encode("12")) == 2

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("tokenizer_config.json", b'{"tokenizer_class": "LlamaTokenizer"}', "LlamaTokenizer"),
            ("tokenizer_config.json", b'{"tokenizer_class": 3}', "tokenizer_class"),
            (
                "tokenizer_config.json",
                b'{"added_tokens_decoder": {"x": {"content": "<y>"}}}',
                "the id of '<y>' is not 'x'",
            ),
            (
                "tokenizer_config.json",
                b'{"added_tokens_decoder": {"7": {"content": "<|endoftext|>", "special": true}}}',
                "has the id 7, but 257",
            ),
            ("merges.txt", b"\xff\xfe", "merges.txt"),
            ("merges.txt", b"a b c", "merges.txt"),
            ("merges.txt", b"a", "merges.txt"),
            ("vocab.json", b'{"a": "1"}', "vocab.json"),
            ("vocab.json", b"[]", "vocab.json"),
            ("vocab.json", b"{}", "vocab.json"),
            ("added_tokens.json", b'{"<x>": null}', "added_tokens.json"),
        ],
    )
    def test_refusals(self, directory: Path, name: str, content: bytes, said: str) -> None:
        (directory / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            read_tokenizer(directory)


def test_merges_out_of_order_are_those_of_the_file(gpt2_files: Path, tmp_path: Path) -> None:
    """Two ids exchanged: tiktoken would merge in another order."""
    shutil.copytree(gpt2_files, tmp_path, dirs_exist_ok=True)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["Ġt"], vocabulary["Ġthe"] = vocabulary["Ġthe"], vocabulary["Ġt"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    ours, peer = read_tokenizer(tmp_path), transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert ours.file_name == "tokenizer.json"
    for text in TEXTS:
        assert ours.encode(text) == peer.encode(text)
