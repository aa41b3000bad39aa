"""Three tasks over one base: generate, follow instructions and classify, in one batch.

    python -m benchmarks.mixed [--rounds 5] [--json FILE]

Each part alone, then all together in one batch, in turns: 16 texts to continue with the base (64
prompt tokens, 64 new ones), 16 instructions with an adapter of rank 16 on all projections (the
same), 64 texts to classify with another one and its head (32 tokens). The rate of the mix is the
time of the parts one after another over the time of the mix: 1.0 is as fast as unmixed.

Memory: what a process with the base and three adapters has resident, beside one with the base.
"""

import random
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.models import prepare
from benchmarks.rounds import Outcome, say
from benchmarks.systems import OURS
from benchmarks.worker import Worker

PROMPT, NEW, GENERATIONS = 64, 64, 16
TEXT, TEXTS = 32, 64
MIX, PARTS = "mixed", ("generate", "instruct", "classify")


def requests(part: str, count: int, *seed: object) -> list[dict[str, Any]]:
    """Requests of one task, for `Penwright.mixed`; other ones for another seed."""
    generator = random.Random(repr((part, seed)))

    def tokens(length: int) -> list[int]:
        return [generator.randrange(50256) for _ in range(length)]

    if part == "classify":
        return [
            {"tokens": tokens(TEXT), "adapter": "classify", "classify": True} for _ in range(count)
        ]
    adapter = "instruct" if part == "instruct" else None
    return [
        {
            "tokens": tokens(PROMPT),
            "adapter": adapter,
            "new": NEW,
            "sampling": {"temperature": 0.8, "seed": i},
        }
        for i in range(count)
    ]


def traffic(part: str, scale: float, *seed: object) -> list[dict[str, Any]]:
    """All of a part; of the mix, its parts interleaved as they would arrive."""
    if part != MIX:
        count = TEXTS if part == "classify" else GENERATIONS
        return requests(part, max(1, round(scale * count)), *seed)
    found = [request for name in PARTS for request in traffic(name, scale, MIX, *seed)]
    random.Random(0).shuffle(found)
    return found


def measure(work: Path, threads: int, rounds: int, scale: float) -> dict[str, Any]:
    """Seconds of each part and of the mix, by round, and their ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in (*PARTS, MIX)}
    # As many slots as there are requests to generate: the mix is one batch.
    with Worker(OURS, work, threads, slots=2 * GENERATIONS) as worker:
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warm-up")
            names = list(seconds)
            for name in names[number % 4 :] + names[: number % 4]:
                given = traffic(name, scale, number)
                taken = worker.call("mixed", requests=given).seconds
                if number:
                    seconds[name].append(taken)
    parts = zip(*(seconds[name] for name in PARTS), strict=True)
    outcome = Outcome("three tasks in one batch", "of the rate of the parts")
    outcome.rates = {
        MIX: [1 / mix for mix in seconds[MIX]],
        "one after another": [1 / sum(part) for part in parts],
    }
    ratio = outcome.ratio(MIX, "one after another")
    return {"seconds": seconds, "mixed_to_unmixed": round(ratio, 3)}


def resident(work: Path, threads: int) -> dict[str, int]:
    """Bytes resident once loaded and used, with the base alone and with its adapters."""
    found = {}
    given = requests("generate", 2, "memory")
    for name, adapters in (("base", ()), ("base and 3 adapters", None)):
        with Worker(OURS, work, threads, adapters=adapters) as worker:
            found[name] = worker.call("mixed", requests=given).resident
    return found


def main() -> None:
    given = record.parser(__doc__.splitlines()[0]).parse_args()
    rounds, scale = (1, 0.25) if given.quick else (given.rounds, 1.0)
    work = prepare("gpt2", given.work).work
    memory = resident(work, given.threads)
    result = measure(work, given.threads, rounds, scale)
    for name, taken in result["seconds"].items():
        print(f"{name:<12}" + " ".join(f"{value:8.3f}" for value in taken) + "  s")
    print(f"the mix has {result['mixed_to_unmixed']:.2f} of the rate of its parts (n={rounds})")
    print(", ".join(f"{name}: {size / 1e6:.0f} MB" for name, size in memory.items()))
    values = record.record(
        "benchmarks.mixed", given, rounds=rounds, resident_bytes=memory, **result
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
