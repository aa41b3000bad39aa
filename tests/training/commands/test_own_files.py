"""`--val`, `--test`, `--max-length`, `--cut` and `--packing` on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 2, "--warmup", 0, "--batch-size", 4, "--eval-every", 2)


def card_of(out: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((out / "card.json").read_text())
    return card


def test_a_classifier_is_tested_on_its_user_s_own_file(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    test = tmp_path / "test.tsv"
    test.write_text("ham\tsee you at home then\nspam\twin a prize, quite new\nham\tlater\n")
    out = tmp_path / "out"
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", out, *SHORT)
    code, err = cli(*command, "--test", test)
    assert code == 0, err
    card = card_of(out)
    assert card["metrics"]["test_natural"]["accuracy"]["n"] == 3
    assert card["data"]["split"]["counts"]["test"] == {"ham": 2, "spam": 1}
    assert "--test" in card["data"]["split"]["rule"]
    code, err = cli(*command, "--resume")
    assert code == 2
    assert "--resume: --" in err
    code, err = cli(*command, "--test", test, "--folds", 3)
    assert (code, "leave out --val and --test" in err) == (2, True)
    assert "test_by_file" not in card["metrics"]


def test_each_file_that_is_tested_has_figures_of_its_own(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    test = tmp_path / "test.tsv"
    test.write_text("ham\tsee you at home then\nspam\twin a prize, quite new\nham\tlater\n")
    out = tmp_path / "out"
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", out, *SHORT)
    code, err = cli(*command, "--test", test, spam_file)
    assert code == 0, err
    metrics = card_of(out)["metrics"]
    by_file = metrics["test_by_file"]
    assert by_file.keys() == {"test.tsv", spam_file.name}
    assert by_file["test.tsv"]["n"] == 3
    whole = metrics["test_natural"]
    for row in (0, 1):
        for column in (0, 1):
            cells = [found["confusion"]["counts"][row][column] for found in by_file.values()]
            assert sum(cells) == whole["confusion"]["counts"][row][column]
    result = tmp_path / "result.json"
    code, err = cli("evaluate", out, "--data", spam_file, "--json", result)
    assert code == 0, err
    alone = json.loads(result.read_text())["metrics"]["test_natural"]
    assert alone == by_file[spam_file.name]


def test_what_others_say_of_their_tests_stands_on_the_card(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    """Of the same recipe in folds, and without a source that only tested it."""
    source = tmp_path / "source.tsv"
    source.write_text("ham\tsee you at home then\nspam\twin a prize, quite new\nham\tlater\n")
    base = ("classify", "--base", base_path, *SHORT, "--data", spam_file)
    folds, without = tmp_path / "folds", tmp_path / "without"
    code, err = cli(*base, "--out", folds, "--folds", 2)
    assert code == 0, err
    code, err = cli(*base, "--out", without, "--test", source)
    assert code == 0, err
    code, err = cli(*base, source, "--out", tmp_path / "out", "--beside", folds, without)
    assert code == 0, err
    card = card_of(tmp_path / "out")
    in_folds, unseen = card["metrics"]["beside"]
    theirs = card_of(folds)["metrics"]
    assert in_folds["metrics"]["cross_validation"] == theirs["cross_validation"]
    assert unseen["metrics"] == {"test_natural": card_of(without)["metrics"]["test_natural"]}
    assert unseen["metrics"]["test_natural"]["n"] == 3
    assert [file["file"] for file in unseen["files"] if file.get("part") == "test"] == [source.name]
    assert unseen["command"] == card_of(without)["command"]
    # Its own test is another one.
    assert card["metrics"]["test_natural"]["n"] != 3


def test_only_classifiers_of_the_same_labels_stand_beside(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    others = tmp_path / "others.tsv"
    others.write_text(spam_file.read_text().replace("ham\t", "fine\t"))
    base = ("classify", "--base", base_path, *SHORT, "--data")
    code, err = cli(*base, others, "--out", tmp_path / "fine")
    assert code == 0, err
    for path, message in (
        (tmp_path / "fine", "tells fine, spam apart; the labels of --data are ham, spam"),
        (base_path, f"--beside {base_path} is no classifier, as its card says"),
        (tmp_path, f"{tmp_path / 'card.json'}: "),
    ):
        code, err = cli(*base, spam_file, "--out", tmp_path / "out", "--beside", path)
        assert code != 0
        assert message in err
        assert not (tmp_path / "out").exists()


def test_texts_that_are_too_long_are_left_out_or_cut(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    data = tmp_path / "data.tsv"
    long = "".join(f"spam\t{'win the prize ' * 30}{word}\n" for word in ("a", "b", "c", "d"))
    data.write_text(spam_file.read_text() + long)
    command = ("classify", "--base", base_path, "--data", data, *SHORT)
    code, err = cli(*command, "--out", tmp_path / "out", "--max-length", 64)
    assert code == 0, err
    assert "4 texts are longer than 64 tokens (--max-length), and left out (--cut" in err
    assert "'win the prize win" in err
    card = card_of(tmp_path / "out")["data"]
    assert set(card["truncated"].values()) == {0}
    assert card["max_length"] == 64
    left_out = sum(sum(of.values()) for of in card["split"]["counts"].values())
    code, err = cli(*command, "--out", tmp_path / "cut", "--max-length", 64, "--cut")
    assert code == 0, err
    assert "4 texts are longer than 64 tokens (--max-length), and cut at their end" in err
    whole, card = card_of(tmp_path / "cut"), card_of(tmp_path / "cut")["data"]
    assert sum(card["truncated"].values()) == 4
    assert sum(sum(of.values()) for of in card["split"]["counts"].values()) == left_out + 4
    # It is measured again as it was: on texts that are cut there.
    result = tmp_path / "result.json"
    code, err = cli("evaluate", tmp_path / "cut", "--data", data, "--json", result)
    assert code == 0, err
    cut = card["truncated"]["test"]
    assert cut
    assert f"{cut} texts are longer than 64 tokens" in err
    again = json.loads(result.read_text())["metrics"]
    assert again["test_natural"] == whole["metrics"]["test_natural"]


def test_a_label_whose_texts_are_all_too_long_is_named(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    data = tmp_path / "data.tsv"
    long = "".join(f"news\t{'win the prize ' * 30}{word}\n" for word in ("a", "b", "c", "d"))
    data.write_text(spam_file.read_text() + long)
    command = ("classify", "--base", base_path, "--data", data, "--out", tmp_path / "out")
    code, err = cli(*command, *SHORT, "--max-length", 64)
    assert code == 1
    assert "no text of the label 'news' fits into 64 tokens (--max-length)" in err


def test_conversations_are_packed_and_preferences_tested_on_given_files(
    base_path: Path, instruction_file: Path, preference_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "packed"
    command = ("instruct", "--base", base_path, "--data", instruction_file, "--packing")
    code, err = cli(*command, "--out", out, *SHORT)
    assert code == 0, err
    assert card_of(out)["packing"] is True
    code, err = cli(*command[:-1], "--out", out, *SHORT, "--resume")
    assert (code, "--packing is False, but the saved run has True" in err) == (2, True)
    test = tmp_path / "test.json"
    row = {"instruction": "Say bus.", "input": "", "chosen": "bus", "rejected": "home"}
    test.write_text(json.dumps([row]))
    command = ("dpo", "--base", base_path, "--data", preference_file, "--test", test)
    code, err = cli(*command, "--out", tmp_path / "dpo", *SHORT)
    assert code == 0, err
    assert card_of(tmp_path / "dpo")["metrics"]["test"]["n"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-length", 129), "--max-length is 129; it must be at most 128, the context of"),
        (("--max-length", 1), "--max-length is 1; it must be at least 2"),
        (("--max-length", 3), "none of the rows of the train part fits into 3 tokens (--max-len"),
        (("--template", "mistral"), "--template is 'mistral'; it must be one of auto, alpaca"),
        (("--template", "chatml"), "the chatml template needs the special token <|im_start|>"),
    ],
)
def test_what_cannot_be_is_named(
    flags: tuple[object, ...],
    message: str,
    base_path: Path,
    instruction_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    command = ("instruct", "--base", base_path, "--data", instruction_file)
    code, err = cli(*command, "--out", tmp_path / "out", *SHORT, *flags)
    assert code != 0
    assert message in err
    assert not (tmp_path / "out").exists()
