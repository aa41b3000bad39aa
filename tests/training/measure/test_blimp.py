"""Minimal pairs: scored as whole documents, whatever they are batched with."""

import json
import lzma
import math
from pathlib import Path

import pytest
import torch

from model.checkpoint import Base
from model.errors import DataError
from training.measure import blimp
from training.measure.blimp import MinimalPair, blimp_metrics, load_pairs, log_probabilities

SENTENCES = [
    "mother is home",
    "the bus is late now",
    "win",
    "call the class tomorrow morning for a free prize",
    "you love dinner",
    "mother is home now",
]


def test_log_probabilities_are_those_of_each_sentence_alone(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = []
    for sentence in SENTENCES:
        tokens = [base.tokenizer.end_token, *base.tokenizer.encode(sentence)]
        total = 0.0
        with torch.no_grad():
            for position in range(1, len(tokens)):
                hidden = base.model(torch.tensor([tokens[:position]]))
                logits = base.model.logits(hidden[0, -1]).double()
                total += torch.log_softmax(logits, dim=0)[tokens[position]].item()
        expected.append(total)
    found = log_probabilities(base.model, base.tokenizer, SENTENCES)
    assert found == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(blimp, "_TOKENS", 1)  # a sentence a batch
    assert log_probabilities(base.model, base.tokenizer, SENTENCES) == pytest.approx(expected, 1e-5)


def test_no_padding_reaches_the_network(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    forward = base.model.forward
    monkeypatch.setattr(base.model, "forward", lambda x: (sizes.append(x.numel()), forward(x))[1])
    log_probabilities(base.model, base.tokenizer, SENTENCES * 3)
    tokens = base.tokenizer.encode_batch(SENTENCES * 3)
    assert sum(sizes) == sum(map(len, tokens))
    assert len(sizes) == len(set(map(len, tokens)))


def test_accuracy_in_all_and_by_paradigm(base: Base) -> None:
    scores = log_probabilities(base.model, base.tokenizer, SENTENCES[:2])
    good, bad = SENTENCES[:2] if scores[0] > scores[1] else SENTENCES[1::-1]
    pairs = [
        *[MinimalPair("easy", good, bad)] * 3,
        MinimalPair("hard", bad, good),
        MinimalPair("hard", good, good),  # a tie is not right
    ]
    found = blimp_metrics(base.model, base.tokenizer, pairs)
    assert (found["n"], found["chance"]) == (5, 0.5)
    assert found["accuracy"]["value"] == 3 / 5
    assert list(found["paradigms"]) == ["hard", "easy"]
    assert found["paradigms"]["hard"] == {
        "value": 0.0,
        "n": 2,
        "interval": [0.0, pytest.approx(1.9599639845**2 / (2 + 1.9599639845**2))],
    }
    assert found["paradigms"]["easy"]["value"] == 1.0


def test_files_are_read_packed_or_not(tmp_path: Path) -> None:
    rows = [{"paradigm": "p", "good": "a b", "bad": "a c", "more": 1}] * 2
    content = "\n\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(content))
    for name in ("a.jsonl", "a.jsonl.xz"):
        assert load_pairs(tmp_path / name) == [MinimalPair("p", "a b", "a c")] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is not an object"),
        ('{"paradigm": "p", "good": "a"}', "line 2 has no bad that is a text"),
        ('{"paradigm": "p", "good": " ", "bad": "b"}', "line 2 has no good that is a text"),
        ('{"paradigm": 1, "good": "a", "bad": "b"}', "line 2 has no paradigm that is a text"),
    ],
)
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"paradigm": "p", "good": "a", "bad": "b"}\n' + line)
    with pytest.raises(DataError, match=message):
        load_pairs(path)


def test_a_sentence_must_fit_the_context(base: Base) -> None:
    long = "win the prize " * 60
    with pytest.raises(DataError, match=r"more than the context of 128: 'win the prize"):
        log_probabilities(base.model, base.tokenizer, ["home", long])


def test_a_random_network_guesses(base: Base, real_data: Path) -> None:
    pairs = load_pairs(real_data / "eval" / "blimp.jsonl.xz")
    assert len(pairs) == 6600
    chosen = pairs[::20]
    found = blimp_metrics(base.model, base.tokenizer, chosen)["accuracy"]["value"]
    assert abs(found - 0.5) < 4 * math.sqrt(0.25 / len(chosen))
