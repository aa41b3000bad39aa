"""Near copies: what is found, what is kept, and the command."""

import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from training.cli import main
from training.data.labelled_parts import read_distinct
from training.data.near_duplicates import Shingles, near_duplicates
from training.data.rows import read_rows

Cli = Callable[..., tuple[int, str]]


def jaccard(a: str, b: str, size: int = 5) -> float:
    """The definition, on sets of strings."""
    one, two = ({t[i : i + size] for i in range(len(t) - size + 1)} for t in (a, b))
    return len(one & two) / len(one | two)


def sentences(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=rng.randint(12, 30))) for _ in range(count)]


def test_finds_the_pairs_that_comparing_all_with_all_finds() -> None:
    rng = random.Random(1)
    texts = sentences(150, 2)
    for text in texts[:60]:  # copies with one to six words replaced, some of them below 0.8
        words = text.split()
        for place in rng.sample(range(len(words)), rng.randint(1, 6)):
            words[place] = "x" * rng.randint(1, 8)
        texts.append(" ".join(words))
    pairs = [
        (a, b) for b in range(len(texts)) for a in range(b) if jaccard(texts[a], texts[b]) >= 0.8
    ]
    assert 10 < len(pairs) < 55
    clusters = near_duplicates(texts, 0.8)
    assert [tuple(member.index for member in cluster) for cluster in clusters] == pairs
    for first, second in clusters:
        assert first.copy_of is None
        assert second.copy_of == first.index
        exact = jaccard(texts[first.index], texts[second.index])
        assert second.similarity == pytest.approx(exact)


def test_a_text_is_kept_when_only_a_dropped_one_is_like_it() -> None:
    whole = " ".join(sentences(4, 3))
    cut = len(whole) // 7
    chain = [whole, whole[cut:], whole[2 * cut :]]
    assert jaccard(chain[0], chain[1]) >= 0.8 <= jaccard(chain[1], chain[2])
    assert jaccard(chain[0], chain[2]) < 0.8
    (cluster,) = near_duplicates(chain, 0.8)
    assert [(member.index, member.copy_of) for member in cluster] == [(0, None), (1, 0), (2, None)]


def test_case_spacing_and_shortness_do_not_matter() -> None:
    clusters = near_duplicates(["Ok", "no", "OK ", "x", " ok", "🙂", "🙂"], 1.0)
    assert [[(m.index, m.copy_of) for m in c] for c in clusters] == [
        [(0, None), (2, 0), (4, 0)],
        [(5, None), (6, 5)],
    ]


def test_digits_can_be_ignored() -> None:
    texts = ["call 0906 1701461 for your prize", "call 0871 2345678 for your prize"]
    assert near_duplicates(texts, 0.95) == []
    (cluster,) = near_duplicates(texts, 0.95, Shingles(ignore_digits=True))
    assert cluster[1].similarity == 1


def test_a_text_does_not_depend_on_its_neighbours() -> None:
    shingles = Shingles()
    texts = ["alpha beta gamma", "ok", "delta epsilon"]
    hashes, starts = shingles.hashes(texts)
    ends = [*starts[1:], len(hashes)]
    for text, start, end in zip(texts, starts, ends, strict=True):
        assert hashes[start:end].tolist() == shingles.hashes([text])[0].tolist()


def chat(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}) + "\n"


TRAIN = 'label,text,source\nbug,"The app crashes,\nwhen I open it",mail\nbug,The app is slow,web\n'
TEST = "label,text,source\nbilling,The app is SLOW,web\nbilling,I was charged twice,web"


def test_command_reports_and_cleans(tmp_path: Path, cli: Cli) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text(TRAIN)
    test.write_text(TEST)
    out, report = tmp_path / "clean", tmp_path / "found.json"
    code, err = cli("duplicates", "--data", train, test, "--out", out, "--json", report)
    assert (code, err) == (0, "")
    assert (out / "train.csv").read_text() == TRAIN
    assert (out / "test.csv").read_text() == (
        "label,text,source\nbilling,I was charged twice,web\n"
    )
    found = json.loads(report.read_text())
    assert found["conflicting_labels"] == found["across_files"] == found["copies"] == 1
    (cluster,) = found["found"]
    assert cluster["labels"] == ["billing", "bug"]
    assert [row["line"] for row in cluster["rows"]] == [4, 2]
    assert cluster["rows"][1]["copy_of"] == {"file": str(train), "line": 4}


def test_output_names_conflicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text(
        "ham\tsee you at the station\nspam\tsee you at the  Station\nham\tother words\n"
    )
    assert main(["duplicates", "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "LABELS DIFFER: ham, spam" in printed
    assert "rows.tsv:2" in printed


@pytest.mark.parametrize(
    ("name", "content", "cleaned"),
    [
        (
            "a.tsv",
            "label\ttext\nx\tsame words\n\ny\tother\nx\tSame words",
            "label\ttext\nx\tsame words\ny\tother\n",
        ),
        (
            "a.jsonl",
            '{"text": "same words", "label": "x", "n": 1}\n{"label": "x", "text": "same  words"}\n',
            '{"text": "same words", "label": "x", "n": 1}\n',
        ),
        (
            "a.txt",
            "same words\n<|endoftext|>\nother\nlines\n<|endoftext|>\nSame words\n",
            "same words\n<|endoftext|>\nother\nlines\n",
        ),
        (
            "b.jsonl",
            chat("Hi?", "a") + chat("hi?", "b"),
            chat("Hi?", "a"),
        ),
    ],
)
def test_every_form_is_written_as_it_was(
    name: str, content: str, cleaned: str, tmp_path: Path, cli: Cli
) -> None:
    data, out = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    data.write_text(content)
    assert cli("duplicates", "--data", data, "--out", out) == (0, "")
    assert out.read_text() == cleaned
    packed = tmp_path / f"{name}.xz"
    packed.write_bytes(lzma.compress(content.encode()))
    again = tmp_path / f"again{Path(name).suffix}.xz"
    assert cli("duplicates", "--data", packed, "--out", again) == (0, "")
    assert lzma.decompress(again.read_bytes()).decode() == cleaned


def test_instructions_are_compared_by_question(tmp_path: Path, cli: Cli) -> None:
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "Red é", "more": [1]},
        {"instruction": "Name a colour.", "input": "", "output": "Blue"},
        {"instruction": "Name a colour.", "input": "of the sky above us", "output": "\ud83d"},
    ]
    data, out = tmp_path / "a.json", tmp_path / "b.json"
    data.write_text(json.dumps(rows))
    assert cli("duplicates", "--data", data, "--out", out) == (0, "")
    assert json.loads(out.read_text()) == [rows[0], rows[2]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--threshold", 0), "--threshold is 0.0; it must be above 0 and at most 1"),
        (("--threshold", "nan"), "--threshold is nan"),
        (("--shingle", 0), "--shingle is 0"),
        (("--show", -1), "--show is -1"),
        (("--kind", "songs"), "--kind is 'songs'; it must be one of labelled, instructions, text"),
        (("--out", "clean.csv"), "'.tsv'"),
        (("--out", "{data}"), "would replace the --data"),
    ],
)
def test_bad_flags(
    flags: tuple[object, ...], message: str, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    data = tmp_path / "spam.tsv"
    data.write_bytes(spam_file.read_bytes())
    words = [str(flag).format(data=data) for flag in flags]
    code, err = cli("duplicates", "--data", data, *words)
    assert code == 2
    assert message in err
    assert data.read_bytes() == spam_file.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"data": [{"instruction": "a"}]}', "must hold a list"),
        ("a.json", '[{"output": "a"}]', "row 1 has neither"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        ("a.csv", "text,kind\na,b\n", "label"),
        ("a.txt", " \n", "is empty"),
    ],
)
def test_bad_data(name: str, content: str, message: str, tmp_path: Path, cli: Cli) -> None:
    data = tmp_path / name
    data.write_text(content)
    code, err = cli("duplicates", "--data", data)
    assert code == 1
    assert str(data) in err
    assert message in err


def test_finds_at_least_the_copies_that_training_drops(real_data: Path) -> None:
    path = real_data / "spam" / "SMSSpamCollection.tsv"
    file = read_rows(path)
    clusters = near_duplicates([row.text for row in file.rows], 1.0)
    copies = sum(member.copy_of is not None for cluster in clusters for member in cluster)
    assert copies >= read_distinct([path]).duplicates > 400
