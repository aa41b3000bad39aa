"""Instructions in three parts: repeated rows leave before the split, no file moves a row."""

import json
import lzma
from pathlib import Path

import pytest

from model.errors import DataError
from tests.training.data.chat_rows import write
from training.data.given import Given
from training.data.instructions import InstructionData, load_instructions

Rows = list[dict[str, str]]


def identities(data: InstructionData) -> list[set[str]]:
    parts = (data.train, data.val, data.test)
    return [{row.identity.lower() for row in part} for part in parts]


def test_repeated_rows_leave_before_the_split(tmp_path: Path, instruction_rows: Rows) -> None:
    again = [{**row, "instruction": row["instruction"].upper()} for row in instruction_rows]
    data = load_instructions([write(tmp_path / "a.json", instruction_rows + again)])
    assert (data.rows, data.duplicates) == (160, 80)
    parts = identities(data)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80


def test_the_books_file_has_25_repeated_rows(real_data: Path) -> None:
    data = load_instructions([real_data / "instructions" / "instruction-data.json"])
    assert (data.rows, data.duplicates) == (1100, 25)
    shares = [len(part) / 1075 for part in (data.train, data.val, data.test)]
    assert shares == pytest.approx([0.85, 0.05, 0.10], abs=0.03)


def test_more_files_move_no_row_to_another_part(tmp_path: Path, instruction_rows: Rows) -> None:
    half = load_instructions([write(tmp_path / "a.json", instruction_rows[:60])])
    both = load_instructions(
        [write(tmp_path / "b.json", instruction_rows[60:]), tmp_path / "a.json"]
    )
    for some, more in zip(identities(half), identities(both), strict=True):
        assert some <= more
    assert len(both.train) > len(half.train)


def test_xz_is_unpacked_and_input_may_be_missing(tmp_path: Path, instruction_rows: Rows) -> None:
    rows = [{k: v for k, v in row.items() if v} for row in instruction_rows]
    assert any("input" not in row for row in rows)
    path = tmp_path / "a.json.xz"
    path.write_bytes(lzma.compress(json.dumps(rows).encode()))
    plain = load_instructions([write(tmp_path / "a.json", instruction_rows)])
    assert load_instructions([path]).train == plain.train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "a"', "not valid JSON"),
        ('{"data": [{"instruction": "a", "output": "b"}]}', "must hold a list"),
        ('{"instruction": "a", "output": "b"}', "none falls into the"),
        ("[]", "has no rows"),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', "row 2 has no output"),
        ('[{"output": "b"}]', "row 1 has no instruction"),
        ('[{"instruction": "a", "input": "", "output": "  "}]', "row 1 has an empty output"),
        ('[{"instruction": "a", "input": 3, "output": "b"}]', "row 1 has no input"),
        ('["a"]', "row 1 is not an object"),
        ('[{"instruction": "a", "output": "b"}]', "none falls into the"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        load_instructions([path])
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_rows_without_their_passage_are_left_out_and_counted(
    tmp_path: Path, instruction_rows: Rows
) -> None:
    bad = {"instruction": "According to this passage, who won?", "output": "Nobody"}
    data = load_instructions([write(tmp_path / "a.json", [bad, *instruction_rows])])
    assert (data.without_passage, data.duplicates) == (1, 0)
    assert bad["instruction"] not in {row.instruction for row in data.train + data.val + data.test}


def test_repeats_are_of_training_rows_alone(tmp_path: Path, instruction_rows: Rows) -> None:
    one = write(tmp_path / "a.json", instruction_rows[:60])
    two = write(tmp_path / "b.json", instruction_rows[60:])
    once = load_instructions([one, two])
    often = load_instructions([one, two], repeats=(3, 0.5))
    assert (often.val, often.test) == (once.val, once.test)
    first = {row["instruction"] for row in instruction_rows[:60]}
    counts = {row.identity: often.train.count(row) for row in once.train}
    assert {counts[row.identity] for row in once.train if row.instruction in first} == {3}
    others = [counts[row.identity] for row in once.train if row.instruction not in first]
    assert set(others) == {0, 1}


def test_a_test_file_takes_its_rows_out_of_the_others(
    tmp_path: Path, instruction_rows: Rows
) -> None:
    one = write(tmp_path / "a.json", instruction_rows[:60])
    two = write(tmp_path / "b.json", instruction_rows[40:])
    alone = load_instructions([one], given=Given(test=(two,)))
    assert len(alone.test) == 40
    assert len(alone.train) + len(alone.val) == 40
    assert not {row.identity for row in alone.test} & {r.identity for r in alone.train + alone.val}
    # Named by both, a file keeps its split.
    both = load_instructions([one, two], given=Given(test=(one,)))
    parts = load_instructions([one])
    assert set(parts.test) <= set(both.test)
    assert all(
        row.instruction in {r["instruction"] for r in instruction_rows[:60]} for row in both.test
    )
