"""All that a bundled model learnt from has a licence, on its card and in docs/licences.md."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CARDS = sorted(ROOT.glob("checkpoints/*/*/card.json"))


class Work(NamedTuple):
    """A row of the page: what files are, and under which licence."""

    title: str
    licence: str


def works() -> dict[str, Work]:
    """By the names of their files."""
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    found = {}
    for files, title, licence in re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", text, re.M):
        found |= dict.fromkeys(re.findall(r"`(.*?)`", files), Work(title, licence))
    return found


def named(entries: Any) -> Iterator[str]:
    """The names of all files in a part of a card, however deep."""
    if isinstance(entries, dict):
        if isinstance(entries.get("file"), str):
            yield entries["file"]
        for entry in entries.values():
            yield from named(entry)
    if isinstance(entries, list):
        for entry in entries:
            yield from named(entry)


def learnt_from(card: dict[str, Any]) -> set[str]:
    """Data, and weights that are others'; also of the checkpoints that it comes from."""
    own = set(named([card.get("data"), card.get("origin")]))
    return own | set(card.get("source", {}).get("files", ()))


def lacking(card: dict[str, Any]) -> list[str]:
    """Files of a card whose work and licence stand not together in one of its licences."""
    known = works()
    return sorted(
        file
        for file in learnt_from(card)
        if file not in known
        or not any(
            known[file].title in said and known[file].licence in said for said in card["licences"]
        )
    )


@pytest.mark.parametrize("path", CARDS, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_each_file_of_a_card_has_a_licence(path: Path) -> None:
    card = json.loads(path.read_text(encoding="utf-8"))
    assert learnt_from(card)
    assert lacking(card) == []
    assert set(named(card.get("measured_on"))) <= works().keys()


def test_a_file_without_one_is_found() -> None:
    data = {"files": [{"file": "SMSSpamCollection.tsv"}, {"file": "unknown.csv"}]}
    said = ["UCI SMS Spam Collection: CC BY 4.0"]
    assert lacking({"data": data, "licences": said}) == ["unknown.csv"]
    assert lacking({"data": data, "licences": []}) == ["SMSSpamCollection.tsv", "unknown.csv"]
    other = ["UCI SMS Spam Collection: CC0", "Dolly: CC BY 4.0"]
    assert "SMSSpamCollection.tsv" in lacking({"data": data, "licences": other})


def test_the_notice_names_each_work() -> None:
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in CARDS]
    for file in set().union(*map(learnt_from, cards)):
        work = works()[file]
        if "public domain" not in work.licence:
            assert work.title.split(",")[0] in notice
