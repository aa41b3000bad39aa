"""Instruction files: repeated rows leave before the split, bad rows are named."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from training.data.instructions import InstructionData, load_instructions

Rows = list[dict[str, str]]


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


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
        ('{"instruction": "a", "output": "b"}', "must hold a list"),
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
