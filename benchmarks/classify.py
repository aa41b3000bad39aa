"""Messages classified per second: our engine, which pads nothing, and padded batches.

    PENWRIGHT_DATA=DIR python -m benchmarks.classify [--model smollm2] [--texts 256] [--rounds 5]

The messages are those of the UCI SMS Spam Collection (DIR/spam/SMSSpamCollection.tsv), in the order
of the file; without it, random tokens of the same distribution of lengths, and the output says so.
All systems get token ids, other messages in each round. `transformers` runs
`…ForSequenceClassification` in batches of 16 and 32, as the messages come and (`sorted`) with
all messages of a round sorted by length first, which a service that answers at once cannot do.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks import record
from benchmarks.models import prepare
from benchmarks.rounds import Outcome, Turn, Work, Workers, compare, say, table
from benchmarks.smollm2 import VOCAB
from benchmarks.systems import OURS
from benchmarks.systems.base import Tokens
from benchmarks.worker import Worker
from model.tokenizer.hugging_face import read_tokenizer

ROW = "classifying messages of mixed length"
DTYPES = ("transformers-fp32", "transformers-bf16")
BATCHES = (16, 32)
MOST_TOKENS = 1000
CLOSE = 0.02
"""Most that probabilities may differ from those of `transformers` in fp32, in the mean; those of
different texts differ by some 0.1 here."""

# Tenths of the distribution of lengths in GPT-2's tokens over the collection, for the fallback.
_DECILES = (1, 8, 10, 13, 16, 20, 25, 31, 40, 49, 100)


@dataclass(frozen=True)
class Texts:
    """Messages as tokens, and where they are from."""

    source: str
    tokens: list[Tokens]

    def of_round(self, number: int, count: int) -> list[Tokens]:
        """Other ones in each round, while there are enough."""
        start = number * count
        return [self.tokens[(start + i) % len(self.tokens)] for i in range(count)]


def texts(hugging_face: Path, data: str | None) -> Texts:
    """Real messages if `data` names the directory that has them."""
    path = Path(data or "", "spam", "SMSSpamCollection.tsv")
    if data and path.is_file():
        tokenizer = read_tokenizer(hugging_face)
        lines = path.read_text(encoding="utf-8").splitlines()
        messages = list(dict.fromkeys(line.partition("\t")[2] for line in lines))
        random.Random(0).shuffle(messages)
        tokens = [ids[:MOST_TOKENS] for ids in tokenizer.encode_batch(messages) if ids]
        return Texts(f"UCI SMS Spam Collection, {len(tokens)} distinct messages", tokens)
    generator = random.Random(0)
    tokens = []
    for _ in range(5000):
        tenth = generator.randrange(10)
        length = generator.randint(_DECILES[tenth], _DECILES[tenth + 1])
        tokens.append([generator.randrange(VOCAB) for _ in range(length)])
    return Texts("random tokens with the lengths of SMS messages", tokens)


def variants() -> dict[str, tuple[str, int, bool]]:
    """Rows of the table: the system, its batch, and whether it sorts."""
    found = {OURS: (OURS, 0, False)}
    for by_length in (False, True):
        for system in DTYPES:
            for batch in BATCHES:
                name = f"{system} batch {batch}" + (" sorted" if by_length else "")
                found[name] = (system, batch, by_length)
    return found


def measure(arguments: "Arguments") -> tuple[list[Outcome], dict[str, object]]:
    files = prepare(arguments.model, arguments.work)
    messages = texts(files.hugging_face, arguments.data)
    say(f"{messages.source}; {arguments.texts} in each round")
    with Workers((OURS, *DTYPES), files.work, arguments.threads) as workers:
        difference = check(workers, messages.of_round(-1, 32))
        variant = variants()

        def turn_of(name: str) -> Turn:
            _, batch, by_length = variant[name]

            def turn(worker: Worker, number: int) -> dict[str, float]:
                given = messages.of_round(number, arguments.texts)
                call = worker.call("classify", texts=given, batch=batch, by_length=by_length)
                return {ROW: len(given) / call.seconds}

            return turn

        turns = {name: (system, turn_of(name)) for name, (system, *_) in variant.items()}
        outcome = compare(workers, [Work({ROW: "texts/s"}, turns)], arguments.rounds)
        lengths = sorted(len(t) for t in messages.tokens)
        return outcome, {
            "settings": workers.settings(),
            "texts": messages.source,
            "texts_per_round": arguments.texts,
            "tokens_median": lengths[len(lengths) // 2],
            "tokens_p99": lengths[len(lengths) * 99 // 100],
            "mean_difference": difference,
        }


def check(workers: Workers, given: list[Tokens]) -> float | None:
    """Mean difference of the probabilities between ours and `transformers` in fp32.

    Raises:
        SystemExit: they do not compute the same.
    """
    if not {OURS, DTYPES[0]} <= workers.running.keys():
        return None
    ours, theirs = (
        workers.running[name].call("classify", texts=given, batch=1, by_length=False).value
        for name in (OURS, DTYPES[0])
    )
    difference = sum(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)) / len(given)
    mean = sum(b[0] for b in theirs) / len(given)
    spread = sum(abs(b[0] - mean) for b in theirs) / len(given)
    say(f"probabilities differ by {difference:.4f} in the mean; texts, by {spread:.4f}")
    if difference > CLOSE:
        raise SystemExit(f"{difference:.3f} is more than {CLOSE}: they do not compute the same")
    return float(difference)


@dataclass(frozen=True)
class Arguments:
    """What a run is asked for."""

    model: str
    work: Path
    data: str | None
    threads: int
    texts: int
    rounds: int


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=256, help="messages in each round")
    parser.add_argument("--model", choices=("gpt2", "smollm2"), default="gpt2")
    given = parser.parse_args()
    count, rounds = (32, 1) if given.quick else (given.texts, given.rounds)
    data = os.environ.get("PENWRIGHT_DATA")
    outcomes, about = measure(
        Arguments(given.model, given.work, data, given.threads, count, rounds)
    )
    print(table(outcomes, OURS))
    rows = [outcome.to_dict(OURS) for outcome in outcomes]
    values = record.record("benchmarks.classify", given, rounds=rounds, works=rows, **about)
    record.write(values, given.json)


if __name__ == "__main__":
    main()
