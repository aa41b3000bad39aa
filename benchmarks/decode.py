"""Tokens per second of GPT-2 124M on a CPU: ours and others', in turns, in one run.

    python -m benchmarks.decode [--check] [--rounds 5] [--systems NAME …] [--json FILE]
    python -m benchmarks.decode --model smollm2     the real SmolLM2-135M, beside llama.cpp

Rows
    decoding one sequence    64 random prompt tokens; 64 steps of one sequence, greedily
    16 sequences at once     prompts of 16 to 128 tokens, each with its own sampling settings;
                             64 steps of all of them
    16 with their prompts    the same as the time to answer: 16 × 65 new tokens over all of the time
    prefill                  a prompt of 512 tokens, and its most probable next token

The time of decoding is the difference between 65 new tokens and 1 new token after prompts of the
same lengths: prompts, and what a call costs, cancel out for every system in the same way. Every
call gets other prompts, so no cache of prefixes helps. The end token never ends a sequence.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gpt2, record, smollm2
from benchmarks.agree import agree
from benchmarks.rounds import Outcome, Work, Workers, compare, everyone, say, table
from benchmarks.systems import OURS, PEERS, SMOLLM2, SYSTEMS
from benchmarks.systems.base import GREEDY, Sampling, Tokens
from benchmarks.worker import Worker, WorkerFailed

STEPS = 64
ONE = (64,)
SIXTEEN = tuple(16 + round(i * 112 / 15) for i in range(16))
PREFILL, PREFILL_PROMPTS = 512, 3
_ATTEMPTS = 3
"""Something else may take the processor during the shorter of the two measurements."""
SAMPLINGS: tuple[Sampling, ...] = (
    GREEDY,
    {"temperature": 0.8, "seed": 1},
    {"temperature": 0.8, "top_k": 40, "seed": 2},
    {"temperature": 1.0, "top_p": 0.95, "seed": 3},
)
"""Rows of a batch take them in turns."""
VOCAB = smollm2.VOCAB  # of the smaller one, which is within that of GPT-2


def prompts(lengths: Sequence[int], *seed: object) -> list[Tokens]:
    """Random tokens; other ones for another seed."""
    generator = random.Random(repr(seed))
    return [[generator.randrange(VOCAB) for _ in range(length)] for length in lengths]


def decoding(
    systems: Sequence[str], lengths: Sequence[int], row: str, with_prompts: str | None = None
) -> Work:
    """Sequences at once; the rates with and without their prompts."""
    samplings = [SAMPLINGS[i % len(SAMPLINGS)] for i in range(len(lengths))]

    def turn(worker: Worker, number: int) -> dict[str, float]:
        def seconds(new: int, attempt: int) -> float:
            given = prompts(lengths, row, number, new, attempt)
            call = worker.call("generate", prompts=given, new=new, samplings=samplings)
            return call.seconds

        for attempt in range(_ATTEMPTS):
            one, all_of_them = seconds(1, attempt), seconds(STEPS + 1, attempt)
            if all_of_them > one:
                break
        else:
            raise WorkerFailed(f"{STEPS + 1} tokens took no longer than 1: too noisy to tell")
        rates = {row: len(lengths) * STEPS / (all_of_them - one)}
        if with_prompts is not None:
            rates[with_prompts] = len(lengths) * (STEPS + 1) / all_of_them
        return rates

    names = [row] if with_prompts is None else [row, with_prompts]
    return Work(dict.fromkeys(names, "tokens/s"), everyone(systems, turn))


def prefilling(systems: Sequence[str], row: str) -> Work:
    def turn(worker: Worker, number: int) -> dict[str, float]:
        given = prompts([PREFILL] * PREFILL_PROMPTS, row, number)
        seconds = sum(worker.call("prefill", prompt=prompt).seconds for prompt in given)
        return {row: PREFILL * PREFILL_PROMPTS / seconds}

    return Work({row: "tokens/s"}, everyone(systems, turn))


def works(systems: Sequence[str]) -> list[Work]:
    return [
        decoding(systems, ONE, "decoding one sequence"),
        decoding(systems, SIXTEEN, "16 sequences at once", "16 sequences with their prompts"),
        prefilling(systems, "prefill of 512 tokens"),
    ]


def tune(workers: Workers) -> None:
    """Let each system choose its settings for both batches."""
    for name, worker in list(workers.running.items()):
        for lengths in (ONE, SIXTEEN):
            try:
                worker.call("tune", prompts=prompts(lengths, "tune"))
            except WorkerFailed as error:
                say(f"{name}: not tuned: {error}")


def measure(
    systems: Sequence[str], work: Path, threads: int, rounds: int, *, check: bool
) -> tuple[list[Outcome], dict[str, object]]:
    """The outcomes, and what else is known of the run."""
    if not set(systems) <= set(SMOLLM2):
        gpt2.prepare(work)
    work.mkdir(parents=True, exist_ok=True)
    with Workers(systems, work, threads) as workers:
        agreement = agree(workers) if check else {}
        tune(workers)
        outcomes = compare(workers, works(systems), rounds)
        return outcomes, {"settings": workers.settings(), "agreement": agreement}


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("gpt2", "smollm2"), default="gpt2")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, help="others than all of a model's"
    )
    parser.add_argument("--check", action="store_true", help="first see that all compute the same")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    all_of_them = SMOLLM2 if arguments.model == "smollm2" else (OURS, *PEERS)
    systems = arguments.systems or all_of_them
    outcomes, about = measure(
        systems, arguments.work, arguments.threads, rounds, check=arguments.check
    )
    ours = all_of_them[0]
    print(table(outcomes, ours))
    rows = [outcome.to_dict(ours) for outcome in outcomes]
    values = record.record("benchmarks.decode", arguments, rounds=rounds, works=rows, **about)
    record.write(values, arguments.json)


if __name__ == "__main__":
    main()
