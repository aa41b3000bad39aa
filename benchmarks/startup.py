"""Seconds from the start of `penwright-serve` until /readyz answers 200, and its memory then.

    python -m benchmarks.startup [--rounds 5] [--json FILE]

Once with the models from scratch, once with GPT-2 124M in int8. Readiness includes a step of the
engine.
`resident` is the process's memory when it is ready; pages of the cache that nothing was written to
are not part of it. `files` is the share that is mapped from files (libraries, mostly), `peak` the
most that was resident during the start. The first start warms the disk's cache and is dropped.
"""

import statistics
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.models import prepare
from benchmarks.rounds import say
from benchmarks.server import ROOT, Server

SCRATCH = ROOT / "checkpoints" / "scratch"


def measure(log: Path, rounds: int, **flags: object) -> dict[str, Any]:
    """Start so many times; medians, in seconds and MB."""
    seconds: list[float] = []
    memory: list[dict[str, int]] = []
    for number in range(rounds + 1):
        with Server(log, **flags) as server:
            if number:
                seconds.append(server.seconds_to_ready)
                memory.append(server.memory())
    return {
        "seconds_to_ready": round(statistics.median(seconds), 3),
        "all_seconds": [round(value, 3) for value in seconds],
        "memory_mb": {
            name: round(statistics.median(found[name] for found in memory) / 1e6, 1)
            for name in memory[0]
        },
    }


def main() -> None:
    given = record.parser(__doc__.splitlines()[0]).parse_args()
    rounds = 1 if given.quick else given.rounds
    files = prepare("gpt2", given.work)
    log = Path(given.work, "startup.log")
    found = {}
    for name, flags in {
        "checkpoints/scratch": {"threads": given.threads, "models": SCRATCH},
        "GPT-2 124M int8": {
            "threads": given.threads,
            "base": files.penwright,
            "quantize": "int8",
        },
    }.items():
        say(f"starting with {name}")
        found[name] = measure(log, rounds, **flags)
        memory = ", ".join(f"{k} {v:.0f}" for k, v in found[name]["memory_mb"].items())
        seconds = found[name]["seconds_to_ready"]
        print(f"{name}: ready after {seconds:.2f} s (n={rounds}); MB: {memory}")
    values = record.record("benchmarks.startup", given, rounds=rounds, starts=found)
    record.write(values, given.json)


if __name__ == "__main__":
    main()
