"""Documents that come one by one are those of the whole text, wherever its pieces end."""

import gzip
import hashlib
import lzma
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import DataError, UsageError
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.tokenizer.patterns import KNOWN_PATTERNS
from training.data import text_stream, token_writer
from training.data.documents import documents, normalise, read_text, text_hash
from training.data.text_stream import split_documents, stream_documents
from training.data.tokens import tokenize_files
from training.data.vocabulary import train_tokenizer
from training.loop import distributed
from training.tasks import Job, pretrain
from training.tasks.pretrain import Corpus

REPOSITORY = Path(__file__).parents[3]
INLINE = len(list(documents(f"a{END_OF_TEXT}b"))) == 2
"""Whether `documents` separates within lines, too."""

WORDS = ["a", "one two", "é", "日本", "\t", " ", "  ", "\n", "\n\n", "\r\n", "\r", "<|", "<|endof"]
SEPARATORS = [f"\n{END_OF_TEXT}\n", f"\r\n{END_OF_TEXT} \t\r\n", f"\r{END_OF_TEXT}\r"]


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    inline = [END_OF_TEXT, f" {END_OF_TEXT} "] if INLINE else []
    chosen = rng.choices([*WORDS, *SEPARATORS, *inline], k=rng.randint(1, 40))
    return ("\ufeff" if seed % 3 == 0 else "") + "x" + "".join(chosen)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 13, 14, 50])
def test_pieces_may_end_anywhere(size: int) -> None:
    for seed in range(300):
        text = random_text(seed)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        pieces[0] = pieces[0].removeprefix("\ufeff")
        assert list(split_documents(pieces)) == list(documents(text)), repr(text)


@pytest.mark.parametrize("bytes_a_piece", [1, 5, 64])
@pytest.mark.parametrize(
    ("name", "pack"), [("a.txt", bytes), ("a.txt.xz", lzma.compress), ("a.txt.gz", gzip.compress)]
)
def test_a_file_is_read_in_pieces(
    name: str,
    pack: Callable[[bytes], bytes],
    bytes_a_piece: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_stream, "_PIECE", bytes_a_piece)
    plain = tmp_path / "plain.txt"
    for seed in range(20):
        plain.write_text(random_text(seed), encoding="utf-8", newline="")
        (tmp_path / name).write_bytes(pack(plain.read_bytes()))
        assert list(stream_documents(tmp_path / name)) == list(documents(read_text(plain)))


def test_separators_within_lines() -> None:
    text = f"one {END_OF_TEXT} two\n{END_OF_TEXT}\n  three\nfour{END_OF_TEXT}{END_OF_TEXT}"
    assert list(split_documents([text])) == ["one", "two", "  three\nfour"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"naïve\n{END_OF_TEXT}\n日本", encoding=encoding)
    assert list(stream_documents(path)) == ["naïve", "日本"]


def test_an_encoding_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("naïve".encode("latin-1"))
    assert list(stream_documents(path, "latin-1")) == ["naïve"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\xef\xbb\xbf"[:2], "is empty"),
        ("a.txt", b"caf\xe9", r"not UTF-8 text \(byte 3 is 0xe9\)"),
        ("a.txt", b"x" * 100 + b"\xe9!", r"not UTF-8 text \(byte 100 is 0xe9\)"),
        ("a.txt", b"x" * 100 + b"\xe6\x97", r"not UTF-8 text \(byte 100 is 0xe6\)"),
        ("a.txt.xz", b"not xz", "cannot be read"),
        ("a.txt.xz", lzma.compress(b"text" * 100)[:-20], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-20], "cannot be read"),
        ("none.txt", None, "cannot be read: No such file"),
    ],
)
def test_bad_files_are_named(
    name: str,
    content: bytes | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_stream, "_PIECE", 7)
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(stream_documents(path))
    assert str(path) in str(error.value)


def test_the_hash_of_a_text_is_that_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [random_text(seed) for seed in range(200)] + ["", " ", "ΣΑΣ ΟΔΥΣΣΕΥΣ\u2003x", "İ\x1cI"]
    for part in (1, 2, 5, 2**20):
        monkeypatch.setattr("training.data.documents._PART", part)
        for text in texts:
            wanted = hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()
            assert text_hash(text) == wanted, repr(text)


@pytest.mark.parametrize("pattern", sorted(KNOWN_PATTERNS))
def test_a_long_document_has_the_tokens_of_the_whole(
    pattern: str, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    kinds = [
        "word",
        "it's",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "!",
        "...",
        "12",
        "½",
        "日本",
        "_",
    ]
    tokenizer = train_tokenizer([text_file.read_text()], 380, pattern)
    monkeypatch.setattr(token_writer, "_STRETCH", 5)
    cut = 0
    for _ in range(300):
        text = "".join(rng.choices(kinds, k=40))
        stretches = list(token_writer._stretches(text, tokenizer))
        cut += len(stretches) > 2
        assert "".join(stretches) == text
        tokens = [token for stretch in stretches for token in tokenizer.encode(stretch)]
        assert tokens == tokenizer.encode(text), repr(text)
    assert cut > 200


def test_long_documents_and_short_ones_are_the_same_file(
    text_file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tokenize_files([text_file], tokenizer, tmp_path / "a", 0.2)
    assert tokenizer.pattern == PATTERN
    monkeypatch.setattr(token_writer, "_STRETCH", 50)
    monkeypatch.setattr(token_writer, "_BATCH", 300)
    found = tokenize_files([text_file], tokenizer, tmp_path / "b", 0.2)
    assert (tmp_path / "a" / "meta.json").read_text() == (tmp_path / "b" / "meta.json").read_text()
    assert found.train.tobytes() == wanted.train.tobytes()


def pipe_of(path: Path, content: bytes) -> threading.Thread:
    """A named pipe that somebody writes to, once."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    return writer


def test_a_pipe_is_read_once(text_file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    writer = pipe_of(pipe, text_file.read_bytes())
    piped = tokenize_files([pipe], tokenizer, tmp_path / "a", 0.2)
    writer.join()
    plain = tokenize_files([text_file], tokenizer, tmp_path / "b", 0.2)
    assert piped.train.tobytes() == plain.train.tobytes()
    digest = hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert (piped.sources[0]["file"], piped.sources[0]["sha256"]) == ("pipe", digest)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"train.bin", "val.bin", "meta.json"}


def test_a_bad_pipe_is_named_as_it_was_given(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    writer = pipe_of(pipe, b"caf\xe9")
    with pytest.raises(DataError, match=r"/pipe: not UTF-8 text \(byte 3 is 0xe9\)"):
        tokenize_files([pipe], tokenizer, tmp_path / "a", 0.2)
    writer.join()
    assert list((tmp_path / "a").glob("input-*")) == []


def test_a_bad_zip_in_a_pipe_is_named_as_it_was_given(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for number, (member, message) in enumerate(
        ((b"caf\xe9", r"not UTF-8 text \(byte 3"), (b"a\0b", "line 1 has a NUL character"))
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.txt", member)
        pipe = tmp_path / f"pipe-{number}"
        writer = pipe_of(pipe, (tmp_path / "a.zip").read_bytes())
        with pytest.raises(DataError, match=rf"/pipe-{number}: {message}"):
            tokenize_files([pipe], tokenizer, tmp_path / "a", 0.2)
        writer.join()


def test_processes_cannot_share_a_pipe(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(distributed, "size", lambda: 2)
    corpus, job = Corpus((tmp_path / "pipe",)), Job(tmp_path / "out")
    with pytest.raises(UsageError, match=r"--data .*pipe is no regular file, and one process"):
        pretrain(corpus, job, tokenizer=str(tokenizer_file))


def test_commands_take_pipes(text_file: Path, tmp_path: Path) -> None:
    """As shells make them: `--data <(cat text.txt)`."""
    train = f"{sys.executable} -m training.cli"
    small = "--preset tiny --context 32 --steps 2 --batch-size 4 --device cpu"
    script = f"""
        set -e
        {train} tokenizer --data <(cat {text_file}) --vocab-size 300 --out own.tiktoken
        {train} pretrain --data <(cat {text_file}) --tokenizer own.tiktoken {small} --out base
        {train} pretrain --data <(cat {text_file}) --tokenizer own.tiktoken {small} --out base \
            --resume
        xz -c {text_file} | {train} pretrain --data /dev/stdin --tokenizer own.tiktoken {small} \
            --out packed
        cmp base/model.safetensors packed/model.safetensors
    """
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert digest in (tmp_path / "base" / "card.json").read_text()
