"""What a training made of its rows is kept, and is what a measurement goes by."""

import json
from collections import Counter
from pathlib import Path

import pytest

from model.errors import CheckpointError
from training.data.splits import Part, Parts


def parts() -> Parts:
    found = Parts()
    found.add("train", ["Win 100 pounds now!", "Call me."], near=True)
    found.add("val", ["See you at 5."], near=True)
    found.add("test", ["Good night."])
    found.add("unused", ["Left out."])
    return found


def counts(found: Parts) -> Counter[str]:
    return Counter(found.of.values())


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert Parts.known(tmp_path) == Parts()
    (tmp_path / "parts.json").write_bytes(parts().content())
    again = Parts.known(tmp_path)
    assert again == parts()
    assert again.digest == parts().digest
    assert counts(again) == {"train": 2, "val": 1, "test": 1, "unused": 1}


def test_of_a_training_of_before_they_are_not_known(tmp_path: Path) -> None:
    """And so not of what goes on from it, either."""
    card = tmp_path / "card.json"
    for content, complete in (
        ({"task": "classify", "data": {"rows": 9}}, False),
        ({"task": "classify"}, True),  # it came from elsewhere
        ({"task": "generate", "data": {"files": []}}, True),
    ):
        card.write_text(json.dumps(content))
        found = Parts.known(tmp_path)
        assert found.complete == complete
        later = parts().merged(found)
        (tmp_path / "later").mkdir(exist_ok=True)
        (tmp_path / "later" / "parts.json").write_bytes(later.content())
        assert Parts.known(tmp_path / "later").complete == complete


def test_no_text_is_in_the_file() -> None:
    assert b"pounds" not in parts().content()


@pytest.mark.parametrize(
    "content",
    [
        '{"format_version": 2}',
        '{"format_version": 1, "train": [1]}',
        '{"format_version": 1, "train": "YQ=="}',
        "[",
        "[]",
    ],
)
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "parts.json").write_text(content)
    with pytest.raises(CheckpointError, match="parts"):
        Parts.known(tmp_path)


@pytest.mark.parametrize(
    ("text", "part", "gives_away"),
    [
        ("call  ME.", "train", True),
        ("WIN 999 pounds, now", None, True),
        ("see you at 7", None, True),
        ("good night.", "test", False),
        ("Good night!", None, False),
        ("left out.", "unused", False),
        ("Something else.", None, False),
    ],
)
def test_what_trained_is_known_by_its_near_copies(
    text: str, part: str | None, gives_away: bool
) -> None:
    assert parts().part(text) == part
    assert parts().gives_away(text) == gives_away


def test_a_row_that_trained_once_stays_so() -> None:
    later = Parts()
    later.add("test", ["Call me.", "Good night.", "Win 200 pounds now."])
    later.add("train", ["Good night.", "New."])
    both = later.merged(parts())
    assert both == parts().merged(later)
    assert both.part("Call me.") == "train"
    assert both.part("Good night.") == "train"
    assert both.part("See you at 5.") == "val"
    assert both.gives_away("Win 200 pounds now."), "it is a near copy of what trained before"
    assert later.part("Call me.") == "test", "the others stay as they are"


@pytest.mark.parametrize(
    ("wanted", "text", "part"),
    [
        ("test", "Call me.", "train"),
        ("test", "Win 1 pound now", "test"),
        ("test", "Win 111 pounds now", "train"),
        ("val", "Call me.", "train"),
        ("val", "See you at 5.", "val"),
        ("test", "See you at 5.", "train"),
        ("test", "Good night.", "test"),
        ("unused", "Call me.", "unused"),
    ],
)
def test_a_further_training_tests_nothing_that_was_learnt(
    wanted: Part, text: str, part: Part
) -> None:
    assert Parts().after(wanted, text) == wanted
    assert parts().after(wanted, text) == part


def test_a_row_is_known_by_the_beginning_of_its_chat() -> None:
    assert parts().after("test", "a later question", "Call me.") == "train"
    assert parts().gives_away("a later question", "Call me.")
