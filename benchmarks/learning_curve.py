"""How good a classifier is by how many texts of each label it has learnt, beside n-grams.

    python -m benchmarks.learning_curve --base SmolLM2-135M-Instruct.Q4_1.gguf \\
        --data banking77-train.csv --test banking77-test.csv --label-column category \\
        --json benchmarks/results/curves/banking77.json --picture docs/banking77.png

For each number of texts, the first so many of each label (by the hash of the text) are written to a
file, and `penwright-train classify` is run on it with the test file as it is. Beside it are n-grams
under a linear support vector machine on the same parts. A run that is done is kept in the work
directory and not done again.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import record
from benchmarks.rounds import say
from model.checkpoint.atomic import write_file
from model.classifier import Labels
from training.data.documents import text_hash
from training.data.given import Given
from training.data.labelled import Example, Reading, read_labelled
from training.data.labelled_parts import load_labelled
from training.measure.baseline import BASELINE, ngram_baseline
from training.measure.intervals import proportion
from training.report.plots import drawing, png

BATCH = 32
STEPS = {10: 300, 30: 450, 100: 750}
"""Optimizer steps for so many texts of each label."""
ALL = 1125


def first_texts(examples: Sequence[Example], count: int) -> list[Example]:
    """The first `count` texts of each label, 0 being all of them."""
    found: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: text_hash(example.text)):
        found.setdefault(example.label, []).append(example)
    return [e for label in sorted(found) for e in found[label][: count or len(found[label])]]


def ours(data: Path, given: Any, work: Path, steps: int) -> dict[str, Any]:
    """Train on `data`; the test's accuracy with its interval, the seconds and the command."""
    card = work / "out" / "card.json"
    if not card.exists():
        command = [sys.executable, "-m", "training.cli", "classify", "--base", str(given.base)]
        command += ["--data", str(data), "--test", str(given.test), "--out", str(work / "out")]
        command += ["--run", str(work / "run"), "--steps", str(steps), "--batch-size", str(BATCH)]
        command += ["--lr", str(given.lr), "--warmup", "50", "--threads", str(given.threads)]
        command += ["--eval-every", str(max(1, steps // 3)), "--save-every", "200"]
        state = work / "run" / "state" / "last.pt"
        subprocess.run([*command, *(["--resume"] if state.exists() else [])], check=True)
    values = json.loads(card.read_text("utf-8"))
    return {
        "accuracy": values["metrics"]["test_natural"]["accuracy"],
        "f1": values["metrics"]["test_natural"]["f1"],
        "seconds": values["seconds"],
        "steps": values["steps"],
        "train": sum(values["data"]["split"]["counts"]["train"].values()),
        "val": sum(values["data"]["split"]["counts"]["val"].values()),
        "frozen": values.get("frozen"),
    }


def ngrams(data: Path, test: Path) -> dict[str, Any]:
    """The baseline's accuracy on the same parts."""
    parts = load_labelled([data], Reading(), Given(test=(test,)))
    labels = Labels(parts.labels)
    decided = ngram_baseline(parts.train, parts.val, parts.test, labels).decided
    truth = [labels.names.index(example.label) for example in parts.test]
    right = sum(int(one) == two for one, two in zip(decided, truth, strict=True))
    return proportion(right, len(truth))


def write_rows(path: Path, examples: Sequence[Example]) -> Path:
    lines = [json.dumps({"label": e.label, "text": e.text}) + "\n" for e in examples]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(lines).encode())
    return path


def texts(work: Mapping[str, Any]) -> int:
    """How many were labelled for it."""
    return int(work["ours"]["train"] + work["ours"]["val"])


def figure(works: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy over the texts that are learnt, with intervals."""
    drawn = Figure(figsize=(7, 4), layout="constrained")
    axes = drawn.add_subplot()
    x = [texts(work) for work in works]
    measures = {
        "LoRA on SmolLM2-135M": [work["ours"]["accuracy"] for work in works],
        "n-grams": [work["ngrams"] for work in works],
    }
    best = [max(found[i]["value"] for found in measures.values()) for i in range(len(works))]
    for label, found in measures.items():
        values = [100 * one["value"] for one in found]
        low = [v - 100 * one["interval"][0] for v, one in zip(values, found, strict=True)]
        high = [100 * one["interval"][1] - v for v, one in zip(values, found, strict=True)]
        axes.errorbar(x, values, yerr=[low, high], marker="o", capsize=3, label=label)
        for place, value, top in zip(x, values, best, strict=True):
            above = value == 100 * top
            axes.annotate(
                f"{value:.1f}",
                (place, value),
                (0, 12 if above else -20),
                textcoords="offset points",
                ha="center",
            )
    axes.margins(x=0.08, y=0.15)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{count:,}" for count in x])
    axes.minorticks_off()
    axes.set_xlabel("labelled texts, validation included")
    axes.set_ylabel("right, % of the test")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return drawn


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--texts", type=int, nargs="+", default=[10, 30, 0], help="0: all")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--picture", type=Path, help="write the curves there, as PNG")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=[], help="earlier records: they are drawn, too"
    )
    given = parser.parse_args()
    earlier = [json.loads(file.read_text("utf-8"))["works"] for file in given.beside]
    work = given.work / f"curve-{given.data.stem}"
    reading = Reading(given.label_column, given.text_column)
    given.test = write_rows(work / "test.jsonl", list(read_labelled(given.test, reading)))
    examples = list(read_labelled(given.data, reading))
    works = []
    for count in given.texts:
        place = work / (str(count) if count else "all")
        data = write_rows(place / "data.jsonl", first_texts(examples, count))
        steps = 20 if given.quick else STEPS.get(count, ALL)
        found = {"texts_of_a_label": count, "ours": ours(data, given, place, steps)}
        found["ngrams"] = ngrams(data, given.test)
        say(json.dumps(found))
        works.append(found)
    title = f"{given.data.stem}: {works[0]['ours']['accuracy']['n']:,} texts tested"
    if given.picture is not None:
        drawn = sorted([*works, *itertools.chain(*earlier)], key=texts)
        with drawing():
            write_file(given.picture, png(figure(drawn, title)))
    values = record.record(
        "benchmarks.learning_curve", given, rounds=1, works=works, ngrams=BASELINE
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
