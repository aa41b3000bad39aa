"""Messages from templates: both labels, no wording in two parts, and nothing left to fill."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from examples.notices.__main__ import main
from examples.notices.generator import Message, generate, hurried
from examples.notices.slots import COUNTRIES, Filler, words
from examples.notices.template import LABELS, PARTS, Template, read_templates
from model.errors import DataError
from training.data.labelled import read_labelled
from training.data.splits import near_hash

COUNTS = {"train": 800, "val": 100, "test": 200}


@pytest.fixture(scope="module")
def templates() -> list[Template]:
    return read_templates()


@pytest.fixture(scope="module")
def messages(templates: list[Template]) -> dict[str, list[Message]]:
    return generate(templates, COUNTS, seed=0)


def test_both_labels_have_hundreds_of_wordings_and_no_wording_two_labels(
    templates: list[Template],
) -> None:
    counts = Counter(template.label for template in templates)
    assert min(counts[label] for label in LABELS) >= 400
    assert len({template.text for template in templates}) == len(templates)
    for part in PARTS:
        labels = Counter(template.label for template in templates if template.part == part)
        assert min(labels[label] for label in LABELS) >= 40


def test_every_template_can_be_filled_in_each_of_its_countries(templates: list[Template]) -> None:
    for template in templates:
        for country in template.countries:
            text = Filler(random.Random(country), country).fill(template.text)
            assert not re.search(r"[{}\[\]]|\bNone\b", text), (template.text, text)


def test_every_slot_has_words_for_each_country() -> None:
    for name, by_country in words().items():
        missing = COUNTRIES.keys() - by_country.keys()
        assert "" in by_country or not missing, (name, missing)
        for values in by_country.values():
            assert all(values), name


def test_a_wording_is_in_one_part_and_so_is_a_message(
    templates: list[Template], messages: dict[str, list[Message]]
) -> None:
    assert {part: len(rows) for part, rows in messages.items()} == COUNTS
    hashes = [near_hash(row.text) for rows in messages.values() for row in rows]
    assert len(set(hashes)) == len(hashes)
    for part in PARTS:
        labels = Counter(row.label for row in messages[part])
        assert abs(labels["ham"] - labels["spam"]) <= 1


def test_a_part_is_made_of_its_own_templates(templates: list[Template]) -> None:
    tested = [template for template in templates if template.part == "test"]
    with pytest.raises(DataError, match="only 0 distinct messages of ham for the part train"):
        generate(tested, {**COUNTS, "train": 1}, seed=0)


def test_a_seed_decides(templates: list[Template], messages: dict[str, list[Message]]) -> None:
    assert generate(templates, COUNTS, seed=0) == messages
    assert generate(templates, COUNTS, seed=1) != messages


def test_links_are_on_the_domain_of_the_firm_or_imitate_it() -> None:
    def links(text: str) -> set[str]:
        filler = Filler(random.Random(1), "uk")
        return {filler.fill(text).rpartition(" ")[2] for _ in range(60)}

    own = [
        link for link in links("{courier}: see {link}") if not re.search(r"ly/|com/\w{5,7}$", link)
    ]
    assert any(re.search(r"(dpd|evri|yodel|royalmail)\.(com|co\.uk)", link) for link in own)
    assert any(
        re.search(r"(dpd|evri|yodel|royalmail)[-.]", link) for link in links("{courier}: {bad}")
    )


def test_haste_spares_links() -> None:
    text = "Dear You, your ACCOUNT is at https://Bit.ly/AbC2You and for you."
    seen = {hurried(text, random.Random(seed)) for seed in range(200)}
    assert all("https://Bit.ly/AbC2You" in each for each in seen)
    assert any(each.startswith("dear you") for each in seen)
    assert any(each.startswith("DEAR YOU") for each in seen)
    assert any("4 u" in each for each in seen)


def test_what_is_written_is_what_classify_reads(tmp_path: Path) -> None:
    words_ = (
        "--count",
        "60",
        "--val-count",
        "20",
        "--test-count",
        "30",
        "--out",
        str(tmp_path / "a"),
    )
    assert main(words_) == 0
    for part, count in (("train", 60), ("val", 20), ("test", 30)):
        rows = list(read_labelled(tmp_path / "a" / f"notices-{part}.jsonl"))
        assert len(rows) == count
        assert {row.label for row in rows} == set(LABELS)
    summary = json.loads((tmp_path / "a" / "notices.json").read_text())
    assert sum(summary["rows"]["test"].values()) == 30
    assert sum(sum(t.values()) for t in summary["templates"].values()) == len(read_templates())


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("--out", str(tmp_path), "--val-count", "0")) == 2
    assert "--val-count is 0" in capsys.readouterr().err
    few = [Template("ham", "t", "[yes|no]"), Template("spam", "t", "win {big}")]
    with pytest.raises(DataError, match="distinct messages"):
        generate(few, COUNTS, seed=0)
    with pytest.raises(DataError, match="no slot 'nothing'"):
        Filler(random.Random(0), "uk").fill("{nothing}")
    with pytest.raises(DataError, match="not closed"):
        Filler(random.Random(0), "uk").fill("[a|b")
    (tmp_path / "ham").mkdir()
    (tmp_path / "ham" / "a.txt").write_text("@uk,atlantis hello\n")
    with pytest.raises(DataError, match=r"a\.txt:1: the country is 'atlantis'"):
        read_templates(tmp_path)
    (tmp_path / "ham" / "a.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="no templates"):
        read_templates(tmp_path)
