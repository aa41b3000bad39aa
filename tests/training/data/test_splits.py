"""What a training made of its rows is kept, and is what a measurement goes by."""

from pathlib import Path

import pytest

from model.errors import CheckpointError
from training.data.splits import Parts, settled


def parts() -> Parts:
    found = Parts()
    found.add("train", ["Win 100 pounds now!", "Call me."], near=True)
    found.add("val", ["See you at 5."], near=True)
    found.add("test", ["Good night."])
    found.add("unused", ["Left out."])
    return found


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert Parts.read(tmp_path) is None
    (tmp_path / "parts.json").write_bytes(parts().content())
    again = Parts.read(tmp_path)
    assert again is not None
    assert (again.of, again.near) == (parts().of, parts().near)
    assert again.digest == parts().digest
    assert again.counts() == {"train": 2, "val": 1, "test": 1, "unused": 1}


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
        Parts.read(tmp_path)


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
    later.add("test", ["Call me.", "Good night."])
    later.add("train", ["Good night.", "New."])
    both = later.before(parts())
    assert both.part("Call me.") == "train"
    assert both.part("Good night.") == "train"
    assert both.part("See you at 5.") == "val"
    assert later.part("Call me.") == "test", "the others stay as they are"
    assert later.before(None).of == later.of


def test_a_further_training_tests_nothing_that_was_learnt() -> None:
    known = parts()
    assert settled("test", "Call me.", None) == "test"
    assert settled("test", "Call me.", known) == "train"
    assert settled("test", "Win 1 pound now", known) == "test"
    assert settled("test", "Win 111 pounds now", known) == "train"
    assert settled("val", "Call me.", known) == "train"
    assert settled("val", "See you at 5.", known) == "val"
    assert settled("test", "See you at 5.", known) == "train"
    assert settled("test", "Good night.", known) == "test"
