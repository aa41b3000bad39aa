"""What the commands read: pipes, encodings, chats of several turns; and what they refuse."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_base
from model.prompts import Alpaca, Message, instruction_prompt
from training.data.conversations import read_instructions
from training.data.preferences import Preference
from training.objectives import conversations, preferences

Cli = Callable[..., tuple[int, str]]
Rows = list[dict[str, str]]
SHORT = ("--steps", 2, "--warmup", 0, "--batch-size", 4)


@pytest.fixture
def pipe() -> Iterator[Callable[[Path], Path]]:
    """Makes what a shell's `<(cat FILE)` gives a command: a pipe that can be read once."""
    ends = []

    def make(path: Path) -> Path:
        out, into = os.pipe()
        ends.append(out)
        os.write(into, path.read_bytes())  # small enough to wait in the pipe
        os.close(into)
        return Path(f"/dev/fd/{out}")

    yield make
    for end in ends:
        os.close(end)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "card.json").read_text())
    return found


@pytest.mark.parametrize("command", ["classify", "instruct", "dpo"])
def test_a_pipe_is_data_and_its_digest_is_that_of_what_was_read(
    command: str,
    pipe: Callable[[Path], Path],
    base_path: Path,
    spam_file: Path,
    instruction_file: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    files = {"classify": spam_file, "instruct": instruction_file, "dpo": preference_file}
    data, out = files[command], tmp_path / "out"
    code, err = cli(command, "--base", base_path, "--data", pipe(data), "--out", out, *SHORT)
    assert code == 0, err
    (source,) = card(out)["data"]["files"]
    assert source["sha256"] == digest(data)
    report = tmp_path / "report.json"
    if command != "dpo":
        flags = ("--data", pipe(data), "--all", "--json", report)
        assert cli("evaluate", out, *flags)[0] == 0
        (source,) = json.loads(report.read_text())["data"]
        assert source["sha256"] == digest(data)


def test_pipes_of_text_and_of_rows(
    pipe: Callable[[Path], Path],
    base_path: Path,
    text_file: Path,
    spam_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    report = tmp_path / "report.json"
    assert cli("evaluate", base_path, "--data", pipe(text_file), "--json", report)[0] == 0
    (source,) = json.loads(report.read_text())["data"]
    assert source["sha256"] == digest(text_file)
    out = tmp_path / "own.tiktoken"
    flags = ("--data", pipe(text_file), "--vocab-size", 300, "--out", out)
    assert cli("tokenizer", *flags)[0] == 0
    assert cli("duplicates", "--data", pipe(spam_file), "--json", report) == (0, "")
    (file,) = json.loads(report.read_text())["files"]
    assert (file["kind"], file["rows"]) == ("labelled", 90)


def test_a_set_asks_for_files_that_can_be_read_twice(
    pipe: Callable[[Path], Path], spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "models.json").write_text("{}")
    code, err = cli("evaluate", tmp_path, "--data", pipe(spam_file))
    assert (code, "is a pipe, which can be read once" in err) == (2, True), err


def test_every_command_takes_an_encoding(
    base_path: Path,
    tokenizer_file: Path,
    spam_rows: list[tuple[str, str]],
    instruction_rows: Rows,
    preference_rows: Rows,
    text_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    contents = {
        "classify": "".join(f"{label}\t{text} é\n" for label, text in spam_rows),
        "instruct": json.dumps(
            [{**r, "output": "é"} for r in instruction_rows], ensure_ascii=False
        ),
        "dpo": json.dumps([{**r, "chosen": "é"} for r in preference_rows], ensure_ascii=False),
        "pretrain": text_file.read_text() + "é",
    }
    out = tmp_path / "out"
    for command, content in contents.items():
        data = tmp_path / (command + (".json" if content[0] == "[" else ".tsv"))
        data.write_bytes(content.encode("latin-1"))
        flags: tuple[object, ...] = ("--data", data, "--out", out, *SHORT)
        if command == "pretrain":
            flags += ("--preset", "tiny", "--tokenizer", tokenizer_file)
        else:
            flags += ("--base", base_path)
        code, err = cli(command, *flags)
        assert (code, "try --encoding latin-1" in err) == (1, True), err
        assert cli(command, *flags, "--encoding", "klingon")[0] == 2
        assert cli(command, *flags, "--encoding", "latin-1")[0] == 0
        if command != "pretrain":
            assert card(out)["data"]["files"][0]["encoding"] == "iso8859-1"
        if command == "classify":  # another file is in another encoding
            code, err = cli("evaluate", out, "--data", data)
            assert (code, "try --encoding latin-1" in err) == (1, True)
        if command != "dpo":
            assert cli("evaluate", out, "--data", data, "--encoding", "latin-1")[0] == 0


def test_an_encoding_belongs_to_a_resumed_run(
    base_path: Path, tokenizer_file: Path, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    data, out = tmp_path / "a.txt", tmp_path / "out"
    data.write_bytes((text_file.read_text() + "é").encode())
    flags = (
        "--data",
        data,
        "--out",
        out,
        "--preset",
        "tiny",
        "--tokenizer",
        tokenizer_file,
        *SHORT,
    )
    assert cli("pretrain", *flags)[0] == 0
    code, err = cli("pretrain", *flags, "--resume", "--encoding", "latin-1")
    assert (code, "--resume: --encoding is latin-1" in err) == (2, True), err


def test_duplicates_are_written_in_the_encoding_that_they_were_read_in(
    tmp_path: Path, cli: Cli
) -> None:
    data, out = tmp_path / "a.csv", tmp_path / "b.csv"
    content = "sep=;\r\nLabel;Text\r\nham;Café é\r\nham;café É\r\nham;thé\r\n"
    for encoding in ("latin-1", "utf-16"):
        data.write_bytes(content.encode(encoding))
        flags = () if encoding == "utf-16" else ("--encoding", encoding)
        assert cli("duplicates", "--data", data, "--out", out, *flags) == (0, "")
        assert out.read_bytes().decode(encoding) == content.replace("ham;café É\r\n", "")


def test_rows_that_cannot_be_compared_stay_in_the_data(tmp_path: Path, cli: Cli) -> None:
    data, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [
        '{"label": "ham", "text": "same words"}',
        '{"label": "ham", "text": null}',
        '{"label": 1, "text": "Same words"}',
    ]
    data.write_text("\n".join(lines) + "\n")
    code, err = cli("duplicates", "--data", data, "--out", out)
    assert (code, err) == (0, f"{data}: 1 of 3 rows are left out:\n  line 2: its text is null\n")
    assert out.read_text() == "\n".join(lines[:2]) + "\n"


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_duplicates_are_packed_as_their_name_says(suffix: str, tmp_path: Path, cli: Cli) -> None:
    data, out, again = tmp_path / "a.tsv", tmp_path / f"b.tsv{suffix}", tmp_path / "c.tsv"
    data.write_text("ham\tsame words\nham\tsame words\nspam\tothers\n")
    assert cli("duplicates", "--data", data, "--out", out) == (0, "")
    assert cli("duplicates", "--data", out, "--out", again) == (0, "")
    assert again.read_text() == "ham\tsame words\nspam\tothers\n"


def test_duplicates_of_a_table_are_not_written(tmp_path: Path, cli: Cli) -> None:
    code, err = cli("duplicates", "--data", "a.xlsx", "--out", tmp_path / "b.xlsx")
    assert (code, "but cannot be written again" in err) == (2, True)


def test_questions_of_all_forms_are_compared(tmp_path: Path, cli: Cli) -> None:
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I"}]
    gpt = [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "You"}]
    rows = [
        {"messages": chat},
        {"conversations": gpt},
        {"prompt": "WHO?", "chosen": "a", "rejected": "b"},
        {"chosen": chat, "rejected": chat},
    ]
    data, report = tmp_path / "a.json", tmp_path / "found.json"
    data.write_text("\n".join(map(json.dumps, rows)))
    assert cli("duplicates", "--data", data, "--json", report) == (0, "")
    assert json.loads(report.read_text())["copies"] == 3


HALF = '"\\ud83d words"'


@pytest.mark.parametrize(
    ("command", "name", "row"),
    [
        ("classify", "a.jsonl", f'{{"label": "ham", "text": {HALF}}}'),
        ("instruct", "a.jsonl", f'{{"instruction": "a", "output": {HALF}}}'),
        ("dpo", "a.jsonl", f'{{"instruction": "a", "chosen": {HALF}, "rejected": "b"}}'),
        ("duplicates", "a.jsonl", f'{{"label": "ham", "text": {HALF}}}'),
        ("duplicates", "a.jsonl", f'{{"instruction": {HALF}}}'),
        ("evaluate", "a.jsonl", f'{{"paradigm": "a", "good": {HALF}, "bad": "b"}}'),
    ],
)
@pytest.mark.parametrize("form", ["{row}", "", "{header}", "[]", "[[[[", "{{", '{{"label": NaN}}'])
def test_broken_rows_are_refused_in_one_line_before_a_training(
    command: str, name: str, row: str, form: str, base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    data, out = tmp_path / name, tmp_path / "out"
    data.write_text(form.format(row=row, header="label,text") + "\n")
    flags: tuple[object, ...] = ("--data", data, "--base", base_path, "--out", out, *SHORT)
    if command == "duplicates":
        flags = ("--data", data)
    if command == "evaluate":
        flags = (base_path, "--blimp", data)
    code, err = cli(command, *flags)
    assert code == 1
    assert err.startswith(f"penwright-train {command}: {data}: "), err
    assert len(err.splitlines()) == 1
    assert ("ud83d, half of a surrogate pair" in err) == (form == "{row}")
    assert not out.exists()


def test_chats_of_several_turns_are_learnt_and_measured(
    base_path: Path, instruction_rows: Rows, tmp_path: Path, cli: Cli
) -> None:
    chats = [
        [
            {"role": "user", "content": first["instruction"]},
            {"role": "assistant", "content": first["output"]},
            {"role": "user", "content": second["instruction"]},
            {"role": "assistant", "content": second["output"]},
        ]
        for first, second in zip(instruction_rows[::2], instruction_rows[1::2], strict=True)
    ]
    data, out = tmp_path / "chats.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    base = load_base(base_path)
    rows = list(read_instructions(data))
    assert len(rows) == 2 * len(chats)
    pairs = conversations.encode(rows[:2], base.tokenizer, 10_000, Alpaca()).found
    first, *_ = chats[0]
    for pair, row in zip(pairs, rows, strict=False):
        earlier = f"User: {first['content']}\nAssistant: {chats[0][1]['content']}"
        prompt = instruction_prompt(row.instruction, earlier if row.earlier else "")
        text = base.tokenizer.decode(list(pair.tokens[:-1]))
        assert text == prompt + row.output
        assert base.tokenizer.decode(list(pair.tokens[: pair.learnt.index(True)])) == prompt
    code, err = cli("instruct", "--base", base_path, "--data", data, "--out", out, *SHORT)
    assert code == 0, err
    assert card(out)["data"]["rows"] == len(rows)
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    flags = ("--data", data, "--all", "--json", report, "--html", page)
    assert cli("evaluate", out, *flags)[0] == 0


def test_preferences_in_a_chat_are_encoded_with_what_was_said_before(base_path: Path) -> None:
    tokenizer = load_base(base_path).tokenizer
    end = tokenizer.end_token
    single = Preference("Say it.", "home", "yes", "no")
    (pair,) = preferences.encode([single], tokenizer, 1000, Alpaca()).chosen
    prompt = tokenizer.encode(instruction_prompt("Say it.", "home"))
    assert pair.tokens == (*tokenizer.prefix, *prompt, *tokenizer.encode("yes"), end)
    assert pair.learnt.index(True) == len(tokenizer.prefix) + len(prompt)
    earlier = (Message("user", "a?"), Message("assistant", "A"))
    rows = [replace(single, earlier=earlier)]
    (pair,) = preferences.encode(rows, tokenizer, 1000, Alpaca()).rejected
    prompt = tokenizer.encode(instruction_prompt("Say it.", "User: a?\nAssistant: A\nhome"))
    assert pair.tokens == (*tokenizer.prefix, *prompt, *tokenizer.encode("no"), end)


def test_fields_are_written_again_as_they_were_named(tmp_path: Path, cli: Cli) -> None:
    rows = [
        {"Label": "ham", "TEXT": "same words", "id": 1},
        {"Label": "ham", "TEXT": "Same words", "id": 2},
        {"Label": "spam", "TEXT": "others", "id": 3},
    ]
    data, out = tmp_path / "a.json", tmp_path / "b.json"
    data.write_text(json.dumps(rows))
    assert cli("duplicates", "--data", data, "--out", out) == (0, "")
    assert json.loads(out.read_text()) == [rows[0], rows[2]]
    questions = [{"Instruction": "Who?", "Input": name, "output": "I"} for name in ("me", "you")]
    data.write_text(json.dumps(questions))
    assert cli("duplicates", "--data", data, "--out", out) == (0, "")
    assert json.loads(out.read_text()) == questions


@pytest.mark.parametrize("command", ["pretrain", "tokenizer", "evaluate"])
def test_commands_train_on_no_binary_data(
    command: str,
    base_path: Path,
    tokenizer_file: Path,
    text_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    out, text = tmp_path / "out", text_file.read_text()
    flags: dict[str, tuple[object, ...]] = {
        "pretrain": ("--out", out, "--preset", "tiny", "--tokenizer", tokenizer_file, *SHORT),
        "tokenizer": ("--out", out, "--vocab-size", 300),
        "evaluate": (base_path,),
    }
    packed = tmp_path / "t.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(text_file, "a.txt")
    unmarked = tmp_path / "a.txt"
    unmarked.write_bytes(text.encode("utf-16-le"))
    for data, more, code, message in (
        (packed, (), 1, f"{packed}: is a tar archive; unpack it"),
        (unmarked, (), 1, f"{unmarked}: looks like UTF-16 without a byte order mark; try --enc"),
        (unmarked, ("--encoding", "utf-16"), 1, "no byte order mark); try --encoding utf-16-le"),
        (unmarked, ("--encoding", "undefined"), 2, "--encoding is 'undefined'"),
    ):
        found, err = cli(command, *flags[command], "--data", data, *more)
        assert (found, message in err, len(err.splitlines())) == (code, True, 1), err
        assert not out.exists()
