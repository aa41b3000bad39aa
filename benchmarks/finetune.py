"""What a step of each way of fine-tuning costs, of a step that trains every weight.

    python -m benchmarks.finetune [--base DIR] [--rounds 5] [--json FILE]

`penwright-train classify` with each `--method` on the same labelled texts, in turns, each in a
process of its own. A rate is that of the steps after the first epoch, from the run's metrics.jsonl:
what a method computes once and keeps is then there. All see the same texts in the same order.
"""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.rounds import Outcome, say, table

METHODS = ("full", "last-block", "lora", "head")
BASE = Path(__file__).resolve().parent.parent / "checkpoints" / "scratch" / "base"
TEXTS, BATCH, EPOCHS = 160, 16, 3
WORDS = (20, 60)
"""Of a text, from the least to the most."""
_COMMON = ("the", "of", "and", "to", "in", "it", "is", "you", "that", "he", "was", "for", "on")


def write_texts(path: Path) -> Path:
    """Labelled texts of common words; labels say which of two words is among them."""
    draw = random.Random(0)
    lines = []
    for number in range(TEXTS):
        label, word = (("a", "apple"), ("b", "stone"))[number % 2]
        words = [*draw.choices(_COMMON, k=draw.randint(*WORDS)), word]
        draw.shuffle(words)
        lines.append(f"{label}\t{' '.join(words)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8")
    return path


def train(method: str, base: Path, texts: Path, work: Path, threads: int) -> float:
    """Texts per second of the steps after the first epoch.

    Raises:
        SystemExit: the training failed.
    """
    run = work / method
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "training.cli", "classify", "--base", str(base)]
    command += ["--data", str(texts), "--out", str(run / "out"), "--run", str(run / "run")]
    command += ["--method", method, "--batch-size", str(BATCH), "--epochs", str(EPOCHS)]
    command += ["--threads", str(threads), "--warmup", "1", "--eval-every", "1000"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr.strip()}")
    return rate((run / "run" / "metrics.jsonl").read_text("utf-8").splitlines())


def rate(lines: Sequence[str]) -> float:
    """Texts per second, of metrics.jsonl; steps of the first epoch, a third of them, are left out.

    Each line tells its tokens and their rate; which evaluations stand between does not matter.
    """
    steps = [entry for entry in map(json.loads, lines) if "tokens_per_second" in entry]
    kept = steps[len(steps) // EPOCHS :]
    seconds: float = sum(entry["batch_tokens"] / entry["tokens_per_second"] for entry in kept)
    return BATCH * len(kept) / seconds


def measure(base: Path, work: Path, threads: int, rounds: int) -> Outcome:
    """All methods in turns, after a warm-up; the order rotates."""
    texts = write_texts(work / "texts.tsv")
    outcome = Outcome(f"classifier, batches of {BATCH} texts", "texts/s")
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        first = number % len(METHODS)
        for method in itertools.islice(itertools.cycle(METHODS), first, first + len(METHODS)):
            found = train(method, base, texts, work, threads)
            if number:
                outcome.rates.setdefault(method, []).append(round(found, 3))
    return outcome


def costs(outcome: Outcome) -> dict[str, float]:
    """Of a step of each method, as a share of a step with every weight."""
    return {method: round(outcome.ratio("full", method), 3) for method in METHODS}


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE, help="(the base from scratch)")
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    outcome = measure(given.base, given.work / "finetune", given.threads, rounds)
    print(table([outcome], "full"))
    works: list[dict[str, Any]] = [outcome.to_dict("full")]
    values = record.record(
        "benchmarks.finetune", given, rounds=rounds, works=works, cost_of_full=costs(outcome)
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
