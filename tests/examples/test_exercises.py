"""Exercises: correct English, and a test part whose words and phrasings training never has."""

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from examples.exercises import facts, forms, grammar
from examples.exercises.__main__ import main
from examples.exercises.exercise import Draw, Exercise, Known, Skip, is_held_out
from examples.exercises.generator import Exercises, Maker, generate
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import Verb, article
from examples.exercises.sentences import TENSES, Clause, Noun
from examples.exercises.wordnet import DIRECTORY, WordNet
from examples.exercises.writer import write_exercises
from model.errors import DataError
from model.prompts import instruction_prompt
from training.cli import main as penwright_train
from training.data.conversations import read_instructions
from training.data.documents import documents

NOUNS = "house city box church lady baker dish story monkey brush bridge table garden engine"
VERBS = "stop carry walk paint clean visit cook fix travel admit play push dance open"
ADJECTIVES = "happy sad hungry lucky funny beautiful careful famous"
ADVERBS = "quickly slowly softly often"
EXCEPTIONS = {
    "noun": "men man\nmice mouse\nfeet foot\n",
    "verb": "stopped stop\nstopping stop\ncarried carry\nadmitted admit\nadmitting admit\n"
    "travelled travel\ntravelling travel\nran run\nrunning run\nforsook forsake\n",
    "adj": "bigger big\nbiggest big\nhappier happy\nhappiest happy\n",
    "adv": "",
}


def write_wordnet(directory: Path) -> Path:
    """A database with a synset for each of the words, in the format of the real one; `sad` is an
    antonym of `happy`, and `fix` has the synonym `mend`."""
    parts = {"noun": ("n", NOUNS), "verb": ("v", VERBS), "adj": ("a", ADJECTIVES)}
    parts["adv"] = ("r", ADVERBS)
    numbers = {"n": "1", "v": "2", "a": "3", "r": "4"}
    counts = []
    for name, (part, words) in parts.items():
        data, index = "  1 a licence\n", "  1 a licence\n"
        for word in words.split():
            lemmas = "02 fix 0 mend 0" if word == "fix" else f"01 {word} 0"
            pointers = "000"
            if word in ("happy", "sad"):
                # The two stand first, and their lines are equally long.
                other = 14 if word == "sad" else 14 + len(LINE_OF_HAPPY)
                pointers = f"001 ! {other:08} a 0101"
            frames = " 01 + 08 00" if part == "v" else ""
            line = f"{len(data):08} 06 {part} {lemmas} {pointers}{frames} | "
            line += f'a plain meaning of the thing; "an example"{" " * 2}\n'
            index += f"{word} {part} 1 0 1 0 {len(data):08}\n"
            data += line
            counts.append(f"{word}%{numbers[part]}:06:00:: 1 20\n")
        (directory / f"data.{name}").write_text(data)
        (directory / f"index.{name}").write_text(index)
        (directory / f"{name}.exc").write_text(EXCEPTIONS[name])
    (directory / "cntlist.rev").write_text("".join(counts))
    return directory


LINE_OF_HAPPY = (
    "00000014 06 a 01 happy 0 001 ! 00000014 a 0101 | "
    'a plain meaning of the thing; "an example"  \n'
)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet")))


@pytest.fixture(scope="module")
def exercises(wordnet: WordNet) -> Exercises:
    return generate(wordnet, 1500, seed=0, test_count=500)


def drawn(make: Maker, lexicon: Lexicon, count: int, *, test: bool) -> Iterable[Exercise]:
    draw = Draw(random.Random(1), test)
    while count:
        try:
            yield make(lexicon, draw)
        except Skip:
            continue
        count -= 1


def test_the_reader_knows_meanings_counts_and_pointers(wordnet: WordNet) -> None:
    (happy,) = wordnet.synsets("happy", "a")
    assert (happy.words, happy.definition) == (("happy",), "a plain meaning of the thing")
    assert happy.examples == ("an example",)
    ((symbol, address, mine, theirs),) = happy.pointers
    assert (symbol, mine, theirs) == ("!", 1, 1)
    assert wordnet.synset(address).words == ("sad",)
    assert wordnet.synsets("fix", "v")[0].words == ("fix", "mend")
    assert wordnet.synsets("fix", "v")[0].frames == {8}
    assert wordnet.count("box", "n") == 20
    assert wordnet.main_part("quickly") == "r"
    assert ("men", "man") in wordnet.exceptions("n")
    assert "quickly" in wordnet.frequent("r", 20)
    assert not wordnet.frequent("r", 21)


def test_forms_of_words(wordnet: WordNet) -> None:
    of = Lexicon(wordnet).forms
    verbs = {base: of.verb(base) for base in ("stop", "carry", "write", "travel", "agree", "lie")}
    past = {base: (verb.past, verb.gerund) for base, verb in verbs.items() if verb}
    assert past == {
        "stop": ("stopped", "stopping"),
        "carry": ("carried", "carrying"),
        "write": ("wrote", "writing"),
        "travel": ("traveled", "traveling"),
        "agree": ("agreed", "agreeing"),
        "lie": ("lay", "lying"),
    }
    assert of.verb("forsake") is None  # irregular, and in no table
    plurals = ("city", "box", "church", "knife", "fireman", "human", "sheep", "toy")
    assert [of.plural(noun) for noun in plurals] == [
        *("cities", "boxes", "churches", "knives", "firemen", "humans", "sheep", "toys")
    ]
    assert of.degrees("big") == ("bigger", "biggest")
    assert of.degrees("wide") == ("wider", "widest")
    assert of.degrees("good") == ("better", "best")
    nouns = ("apple", "hour", "user", "uncle", "house", "honest man")
    assert [article(noun).split()[0] for noun in nouns] == ["an", "an", "a", "an", "a", "an"]


WRITE = Verb("write", "writes", "wrote", "written", "writing", irregular=True)
CLAUSE = Clause(Noun("she"), WRITE, Noun("the letters", "they"), "every day")


def test_a_clause_in_all_tenses() -> None:
    assert [CLAUSE.sentence(tense) for tense in TENSES] == [
        f"She {verb} the letters every day."
        for verb in (
            *("writes", "wrote", "will write", "is writing", "was writing", "will be writing"),
            *("has written", "had written", "will have written", "has been writing"),
            *("had been writing", "will have been writing"),
        )
    ]


def test_voices_questions_and_negatives_agree() -> None:
    assert CLAUSE.passive("present simple") == "The letters are written by her every day."
    assert CLAUSE.passive("past perfect") == "The letters had been written by her every day."
    assert CLAUSE.passive("past continuous") == "The letters were being written by her every day."
    assert CLAUSE.passive("must") == "The letters must be written by her every day."
    assert CLAUSE.question("past simple") == "Did she write the letters every day?"
    assert CLAUSE.question("present perfect") == "Has she written the letters every day?"
    assert CLAUSE.negative("present simple") == "She does not write the letters every day."
    assert CLAUSE.command() == "Write the letters every day."
    mine = Clause(Noun("I", "I"), WRITE, Noun("a note"))
    assert mine.sentence("past continuous") == "I was writing a note."
    assert mine.question("present continuous") == "Am I writing a note?"
    assert mine.passive("future simple") == "A note will be written by me."


def test_a_seed_decides_and_more_rows_begin_with_the_same(
    wordnet: WordNet, exercises: Exercises
) -> None:
    assert generate(wordnet, 200, 0, 50).train == exercises.train[:200]
    assert generate(wordnet, 200, 1, 50).train != exercises.train[:200]


def test_no_question_of_the_test_is_in_training(exercises: Exercises) -> None:
    def questions(rows: Iterable[Exercise]) -> list[str]:
        return [f"{row.instruction}|{row.input}".lower() for row in rows]

    train, test = questions(exercises.train), questions(exercises.test)
    assert len(set(train)) == len(train) == 1500
    assert len(set(test)) == len(test) == 500
    assert not set(train) & set(test)


def test_rules_are_tested_on_words_that_training_does_not_ask_about(wordnet: WordNet) -> None:
    lexicon = Lexicon(wordnet)
    asked = (forms.plural, lexicon, 400)
    words: dict[bool, set[str]] = {}
    for test in (False, True):
        rows = [f"{row.instruction} {row.input}" for row in drawn(*asked, test=test)]
        found = {re.findall(r"\w+", row)[-1] for row in rows if not row.endswith("plural?")}
        irregular = lexicon.forms.irregular_plurals
        words[test] = found - {*irregular, *irregular.values()}
    assert words[True]
    assert not words[True] & words[False]
    assert all(is_held_out(word) for word in words[True] if word in lexicon.nouns)


def test_facts_are_tested_in_phrasings_that_training_does_not_have(wordnet: WordNet) -> None:
    lexicon = Lexicon(wordnet)
    train = list(drawn(facts.capital_city, lexicon, 3000, test=False))
    test = list(drawn(facts.capital_city, lexicon, 300, test=True))

    def beginnings(rows: list[Exercise]) -> set[str]:
        return {" ".join(row.instruction.split()[:2]) for row in rows}

    assert beginnings(test) <= {"Tell me", "Do you", "Of which"}
    assert not beginnings(test) & beginnings(train)
    # What the test asks, training has told.
    known = {row.output for row in train}
    assert {row.output for row in test if row.kind == "capital"} <= known


def test_irregular_forms_are_facts(wordnet: WordNet) -> None:
    lexicon = Lexicon(wordnet)
    for row in drawn(forms.verb_form, lexicon, 300, test=True):
        if any(f"'{word}'" in row.instruction for word in ("write", "go", "eat", "begin", "see")):
            assert not row.instruction.startswith(("What is the past tense of", "Provide"))


def test_phrasings_are_filled() -> None:
    draw = Draw(random.Random(0), test=False)
    row = draw.fill(
        "kind",
        ("Say `{w}`. | {w} => `{a}` or {A}", "~Never in training. => {a}"),
        Known(unique=False, accept=("two",)),
        w="x",
        a="one",
    )
    assert row.instruction in ("Say 'x'.", 'Say "x".')
    quote = row.instruction[4]
    assert (row.input, row.output) == ("x", f"{quote}one{quote} or One")
    assert row.accept == (f"{quote}two{quote} or Two",)


def test_sentences_of_the_test_have_held_out_verbs(wordnet: WordNet) -> None:
    for row in drawn(grammar.command, Lexicon(wordnet), 100, test=True):
        verb = row.output.split()[0].lower().rstrip(".")
        irregular = row.instruction.startswith("Turn the sentence")
        assert irregular or is_held_out(verb)


def test_what_is_written_is_what_instruct_and_pretrain_read(
    exercises: Exercises, tmp_path: Path
) -> None:
    write_exercises(tmp_path / "new", exercises, {"seed": 0})
    rows = list(read_instructions(tmp_path / "new" / "exercises-train.json"))
    assert [(row.instruction, row.output, row.kind) for row in rows] == [
        (row.instruction, row.output, row.kind) for row in exercises.train
    ]
    assert any(row.accept for row in rows)
    assert {row.unique for row in rows} == {True, False}
    texts = list(documents((tmp_path / "new" / "exercises.txt").read_text()))
    assert texts == [
        instruction_prompt(row.instruction, row.input) + row.output for row in exercises.train
    ]
    plain = list(documents((tmp_path / "new" / "exercises-plain.txt").read_text()))
    first = exercises.train[0]
    lines = (first.instruction, first.input, first.output)
    assert plain[0] == "\n".join(line for line in lines if line)
    assert len(plain) == len(texts)
    summary = json.loads((tmp_path / "new" / "exercises.json").read_text())
    assert sum(summary["rows"]["test"].values()) == 500


def test_the_command_and_its_refusals(
    wordnet: WordNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str]:
        return main([str(word) for word in words]), capsys.readouterr().err

    command = ("--out", tmp_path / "out", "--wordnet", wordnet.directory)
    assert run(*command, "--count", 50, "--test-count", 10) == (0, "")
    assert len(json.loads((tmp_path / "out" / "exercises-train.json").read_text())) == 50
    code, err = run(*command, "--count", 0)
    assert (code, "--count is 0" in err) == (2, True)
    code, err = run("--out", tmp_path, "--wordnet", tmp_path)
    assert code == 1
    assert str(tmp_path) in err
    assert "wordnet-base" in err


def test_the_old_command_says_where_they_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert penwright_train(["data", "exercises", "--out", str(tmp_path)]) == 2
    assert "python -m examples.exercises" in capsys.readouterr().err


def test_more_than_there_is_is_said(wordnet: WordNet, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {facts.simile: 1.0}
    monkeypatch.setattr("examples.exercises.generator.WEIGHTS", only)
    with pytest.raises(DataError, match="there are only"):
        generate(wordnet, 10_000, 0, 1)


@pytest.mark.skipif(not DIRECTORY.is_dir(), reason="Debian's wordnet-base is not installed")
def test_the_real_database_gives_every_kind() -> None:
    found = generate(WordNet(), 1000, 0, 100)
    assert len({row.kind for row in found.train}) > 60
    for row in found.train:
        assert row.output.strip() == row.output
        assert not re.search(r"[{}`]|\bNone\b|  ", row.instruction + row.input + row.output)
