"""What adapters cost: SmolLM2 with sixteen of them in one batch, beside the base alone.

    python -m benchmarks.adapters [--rounds 5] [--json FILE]

A batch of 32 sequences, each with a prompt of 64 tokens and 64 new ones, in which sequence i has
adapter i mod 16: of rank 16 on queries and values, then on all projections; and the same without
any. Rates are of decoding, the difference between 65 new tokens and 1. Their weights are random.
"""

from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.decode import STEPS, prompts
from benchmarks.gpt2 import Files, write_adapter
from benchmarks.models import prepare
from benchmarks.rounds import Outcome, Turn, Work, Workers, compare, table
from benchmarks.systems import OURS
from benchmarks.worker import Worker, WorkerFailed
from model.checkpoint import load_base
from model.lora import LoRASettings

ADAPTERS, SEQUENCES, PROMPT, RANK = 16, 32, 64, 16
KINDS = {"none": None, "queries and values": ("q", "v"), "all projections": ()}
"""The targets of the adapters in each kind of batch; () is all of them."""
ROW = f"{SEQUENCES} sequences with {ADAPTERS} adapters"
NONE = "none"


def name(kind: str, number: int) -> str:
    return f"instruct-{kind.replace(' ', '-')}-{number}"


def write(files: Files) -> None:
    """The adapters that are not there yet."""
    base = load_base(files.penwright)
    for kind, targets in KINDS.items():
        for number in range(ADAPTERS if targets is not None else 0):
            path = files.adapter(name(kind, number))
            if not path.exists():
                settings = LoRASettings(rank=RANK, targets=targets or ())
                write_adapter(path, base, settings, seed=number)


def work() -> Work:
    def turn_of(kind: str) -> Turn:
        def turn(worker: Worker, number: int) -> dict[str, float]:
            def seconds(new: int) -> float:
                given = prompts([PROMPT] * SEQUENCES, kind, number, new)
                requests = [
                    {
                        "tokens": tokens,
                        "new": new,
                        "adapter": None if kind == NONE else name(kind, i % ADAPTERS),
                    }
                    for i, tokens in enumerate(given)
                ]
                return worker.call("mixed", requests=requests).seconds

            one, whole = seconds(1), seconds(STEPS + 1)
            if whole <= one:
                raise WorkerFailed(f"{STEPS + 1} tokens took no longer than 1: too noisy to tell")
            return {ROW: SEQUENCES * STEPS / (whole - one)}

        return turn

    return Work({ROW: "tokens/s"}, {kind: (OURS, turn_of(kind)) for kind in KINDS})


def bytes_of(files: Files) -> dict[str, int]:
    """What the sixteen adapters of each kind take on disk."""
    return {
        kind: sum(
            (files.adapter(name(kind, i)) / "adapter.safetensors").stat().st_size
            for i in range(ADAPTERS)
        )
        for kind, targets in KINDS.items()
        if targets is not None
    }


def measure(path: Path, threads: int, rounds: int) -> tuple[Outcome, dict[str, Any]]:
    names = [name(k, i) for k, t in KINDS.items() if t is not None for i in range(ADAPTERS)]
    with Workers((OURS,), path, threads, slots=SEQUENCES, adapters=names) as workers:
        (outcome,) = compare(workers, [work()], rounds)
        return outcome, {"settings": workers.settings()}


def main() -> None:
    given = record.parser(__doc__.splitlines()[0]).parse_args()
    rounds = 1 if given.quick else given.rounds
    files = prepare("smollm2", given.work)
    write(files)
    outcome, about = measure(files.work, given.threads, rounds)
    print(table([outcome], NONE))
    shares = {kind: round(outcome.ratio(kind, NONE), 3) for kind in KINDS if kind != NONE}
    print(shares)
    values = record.record(
        "benchmarks.adapters",
        given,
        rounds=rounds,
        works=[outcome.to_dict(NONE)],
        of_the_rate_without=shares,
        bytes=bytes_of(files),
        **about,
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
