"""Files that are set apart to validate and to test, for every kind of rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError, UsageError
from model.tokenizer import Tokenizer
from training.data.given import Given
from training.data.instructions import load_instructions
from training.data.labelled import Reading
from training.data.labelled_parts import LabelledData, load_labelled, split_rule
from training.data.preferences import load_preferences
from training.data.tokens import tokenize_files

NAMES = ("train", "val", "test")


def write(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(*texts: str) -> list[dict[str, str]]:
    return [{"label": "even" if i % 2 else "odd", "text": text} for i, text in enumerate(texts)]


def instructions(*asked: str) -> list[dict[str, str]]:
    return [{"instruction": text, "output": "x"} for text in asked]


def preferences(*asked: str) -> list[dict[str, str]]:
    return [{"instruction": text, "chosen": "x", "rejected": "y"} for text in asked]


WORDS = [f"{a}{b}" for a in "bcdfghjklm" for b in ("an", "et", "ip", "og", "um", "ay")]


def asked_of(row: Any) -> str:
    return str(getattr(row, "text", None) or row.instruction)


@pytest.mark.parametrize(
    ("rows", "load"),
    [
        (labelled, lambda paths, given: load_labelled(paths, None, given)),
        (instructions, lambda paths, given: load_instructions(paths, given=given)),
        (preferences, lambda paths, given: load_preferences(paths, given=given)),
    ],
    ids=["labelled", "instructions", "preferences"],
)
def test_what_is_set_apart_is_nothing_else(rows: Any, load: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", rows(*WORDS))
    own = write(tmp_path / "test.jsonl", rows(*WORDS[:2], "quite", "new"))
    val = write(tmp_path / "val.jsonl", rows(*WORDS[2:4], *WORDS[:2], "other", "words"))
    found = load([data], Given((val,), (own,)))
    parts = {name: {asked_of(row) for row in getattr(found, name)} for name in NAMES}
    assert parts["test"] == {*WORDS[:2], "quite", "new"}
    assert parts["val"] == {*WORDS[2:4], "other", "words"}
    assert parts["train"] == set(WORDS[4:])
    # With one of them, --data keeps the other part, of the same rows as ever.
    plain, tested = load([data], Given()), load([data], Given(test=(own,)))
    assert {asked_of(row) for row in tested.test} == parts["test"]
    before = {asked_of(row) for row in plain.val}
    assert before
    assert {asked_of(row) for row in tested.val} == before - parts["test"]
    # A file that --data names too gives its part alone.
    for given in (Given(test=(data,)), Given(val=(data,), test=(data,))):
        both = load([data], given)
        assert [{asked_of(row) for row in getattr(both, name)} for name in NAMES] == [
            {asked_of(row) for row in getattr(plain, name)} for name in NAMES
        ]
    assert [source.get("part") for source in found.sources] == ["test", "validation", "training"]
    assert [source.get("part") for source in plain.sources] == [None]
    with pytest.raises(UsageError, match=r"--val and --test both name .*test\.jsonl"):
        load([data], Given((own,), (own,)))


def near(data: LabelledData) -> set[str]:
    return {example.text for example in data.unused}


def test_texts_that_give_a_given_test_away_are_not_learnt(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(*WORDS, "call 0800 123", "won 500!"))
    test = write(tmp_path / "b.jsonl", labelled("Call 0800 456", "fresh words"))
    found = load_labelled([data], None, Given(test=(test,)))
    assert near(found) == {"call 0800 123"}
    assert {example.text for example in found.test} == {"Call 0800 456", "fresh words"}
    assert "unused" in {found.parts().part("call 0800 123")}
    assert "--test names are test as a whole" in split_rule(Reading(), Given(test=(test,)))
    assert "--val" not in split_rule(Reading(), Given(test=(test,)))


def test_labels_of_what_is_set_apart(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(*WORDS))
    test = write(tmp_path / "b.jsonl", [{"label": "third", "text": "what"}])
    with pytest.raises(DataError, match=r"b\.jsonl: label 'third' is unseen in --data, which has"):
        load_labelled([data], None, Given(test=(test,)))
    one = write(tmp_path / "c.jsonl", [{"label": "odd", "text": "what"}])
    found = load_labelled([data], None, Given(test=(one,)))
    assert [example.label for example in found.test] == ["odd"]


def test_few_texts_will_do_where_parts_are_given(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled("ban", "bet"))
    more = [write(tmp_path / f"{n}.jsonl", labelled(f"{n} x", f"{n} y")) for n in ("val", "test")]
    found = load_labelled([data], None, Given((more[0],), (more[1],)))
    assert found.counts() == {name: {"odd": 1, "even": 1} for name in NAMES}
    with pytest.raises(DataError, match=r"has 1 distinct text .*at least 2: to train and to val"):
        load_labelled([data], None, Given(test=(more[1],)))
    with pytest.raises(DataError, match="at least 3: to train, to validate and to test"):
        load_labelled([data])


def test_a_chat_that_begins_as_a_tested_one_is_not_learnt(tmp_path: Path) -> None:
    def chat(*said: str) -> dict[str, Any]:
        roles = ("user", "assistant")
        return {
            "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
        }

    data = write(
        tmp_path / "a.jsonl",
        [*instructions(*WORDS), chat("hello", "hi", "what now?", "nothing")],
    )
    test = write(tmp_path / "b.jsonl", [chat("hello", "good day")])
    found = load_instructions([data], given=Given(test=(test,)))
    assert [row.output for row in found.test] == ["good day"]
    assert [row.output for row in found.unused] == ["nothing"]
    assert found.begun_alike == 1
    learnt = {row.output for name in ("train", "val") for row in getattr(found, name)}
    assert learnt == {"x"}


def test_other_answers_to_a_tested_question_are_no_copies(tmp_path: Path) -> None:
    """They are left out, and counted as what they are."""
    other = {**preferences(WORDS[0])[0], "chosen": "z"}
    data = write(tmp_path / "a.jsonl", [*preferences(*WORDS), other])
    test = write(tmp_path / "b.jsonl", preferences(WORDS[0]))
    found = load_preferences([data], given=Given(test=(test,)))
    assert [row.chosen for row in found.unused] == ["z"]
    assert found.duplicates == 1
    assert found.parts().part(found.test[0].question.identity) == "test"


def test_text_that_is_set_apart_validates_and_is_not_learnt(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    data, val = tmp_path / "data.txt", tmp_path / "val.txt"
    documents = [f"the {word} is home" for word in WORDS]
    data.write_text("\n<|endoftext|>\n".join(documents))
    val.write_text("\n<|endoftext|>\n".join([*documents[:2], "dinner is later"]))
    files = tokenize_files([data], tokenizer, tmp_path / "run", 0.0, val=[val])

    end = tokenizer.end_token
    counts = [int((part == end).sum()) for part in (files.train, files.val)]
    assert counts == [len(WORDS) - 2, 3]
    assert tokenizer.decode(files.val.tolist()[: list(files.val).index(end)]) == documents[0]
    assert [source["documents"] for source in files.sources] == [len(WORDS) - 2]
    assert [source["documents"] for source in files.val_sources] == [3]
    again = tokenize_files([data], tokenizer, tmp_path / "run", 0.0, val=[val])
    assert (again.train == files.train).all()
    with pytest.raises(DataError, match="all documents are in --val, too"):
        tokenize_files([val], tokenizer, tmp_path / "none", 0.0, val=[val])


def test_a_base_is_validated_on_text_of_its_own(
    text_file: Path, tmp_path: Path, tokenizer_file: Path, cli: Callable[..., tuple[int, str]]
) -> None:
    val = tmp_path / "val.txt"
    val.write_text("mother is home and dinner is later\n" * 40)
    command = ("pretrain", "--data", text_file, "--tokenizer", tokenizer_file, "--preset", "tiny")
    short = ("--steps", 2, "--batch-size", 2, "--context", 16)
    code, err = cli(*command, "--val", val, "--out", tmp_path / "out", *short)
    assert code == 0, err
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["data"]["split"]["files"][0]["file"] == "val.txt"
    assert card["data"]["split"]["val_fraction"] == 0
    code, err = cli(*command, "--out", tmp_path / "out", *short, "--resume")
    assert (code, "--resume: --" in err) == (2, True)
    code, err = cli(*command, "--val", val, "--val-fraction", 0.1, "--out", tmp_path / "o", *short)
    assert (code, "each says what validates; give one of them" in err) == (2, True)
    more = ("--base", tmp_path / "out", "--val", text_file, "--data", val)
    code, err = cli("pretrain", *more, "--out", tmp_path / "more", *short)
    assert (code, "--base was trained on it" in err) == (2, True)
