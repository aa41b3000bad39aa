"""Tokens per second of a network on a CPU: ours and others', in turns, in one run.

    python -m benchmarks.decode [--check] [--rounds 5] [--systems NAME …] [--json FILE]
    python -m benchmarks.decode --model smollm2     the real SmolLM2-135M in 4 bits
    python -m benchmarks.decode --model llama-1b    the shape of Llama 3.2 1B in 4 bits

Rows, of which --rows names some
    1              decoding one sequence: 64 random prompt tokens; 64 steps, greedily
    16, 32         sequences at once: prompts of 16 to 128 tokens, each with its own sampling
                   settings; 64 steps of all of them. "With their prompts" is the same as the time
                   to answer: 16 × 65 new tokens over all of the time
    prefill        a prompt of 512 tokens, and its most probable next token
    long-prefill   the same of 4,000 tokens

The time of decoding is the difference between 65 new tokens and 1 new token after prompts of the
same lengths: prompts, and what a call costs, cancel out for every system in the same way. Every
call gets other prompts, so no cache of prefixes helps. The end token never ends a sequence.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record, smollm2
from benchmarks.agree import agree
from benchmarks.models import MODELS, prepare
from benchmarks.rounds import Outcome, Work, Workers, compare, everyone, say, table
from benchmarks.systems import COMPARED, OURS, SYSTEMS
from benchmarks.systems.base import GREEDY, Sampling, Tokens
from benchmarks.worker import Worker, WorkerFailed

STEPS = 64
ONE = (64,)
SIXTEEN, THIRTY_TWO = (tuple(16 + round(i * 112 / (n - 1)) for i in range(n)) for n in (16, 32))
PREFILLS = {512: 3, 4000: 1}
"""How many prompts a turn has, by their length."""
ROWS = ("1", "16", "32", "prefill", "long-prefill")
USUAL = {"gpt2": ("1", "16", "prefill"), "smollm2": ROWS, "llama-1b": ("1", "16", "prefill")}
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


def prefilling(systems: Sequence[str], length: int, row: str) -> Work:
    def turn(worker: Worker, number: int) -> dict[str, float]:
        given = prompts([length] * PREFILLS[length], row, number)
        seconds = sum(worker.call("prefill", prompt=prompt).seconds for prompt in given)
        return {row: length * len(given) / seconds}

    return Work({row: "tokens/s"}, everyone(systems, turn))


def works(systems: Sequence[str], rows: Sequence[str]) -> list[Work]:
    found = {
        "1": decoding(systems, ONE, "decoding one sequence"),
        "16": decoding(systems, SIXTEEN, "16 sequences at once", "16 sequences with their prompts"),
        "32": decoding(
            systems, THIRTY_TWO, "32 sequences at once", "32 sequences with their prompts"
        ),
        "prefill": prefilling(systems, 512, "prefill of 512 tokens"),
        "long-prefill": prefilling(systems, 4000, "prefill of 4,000 tokens"),
    }
    return [found[row] for row in rows]


def tune(workers: Workers, rows: Sequence[str]) -> None:
    """Let each system choose its settings for each kind of work."""
    lengths = {
        "1": ONE,
        "16": SIXTEEN,
        "32": THIRTY_TWO,
        "prefill": (512,),
        "long-prefill": (4000,),
    }
    for name, worker in list(workers.running.items()):
        for row in rows:
            try:
                new = 1 if "prefill" in row else 16
                worker.call("tune", prompts=prompts(lengths[row], "tune"), new=new)
            except WorkerFailed as error:
                say(f"{name}: not tuned: {error}")


def measure(
    systems: Sequence[str],
    work: Path,
    threads: int,
    rounds: int,
    rows: Sequence[str] = USUAL["gpt2"],
    *,
    check: bool,
) -> tuple[list[Outcome], dict[str, object]]:
    """The outcomes, and what else is known of the run.

    Args:
        work: where the files of the model are.
    """
    with Workers(systems, work, threads) as workers:
        agreement = agree(workers) if check else {}
        tune(workers, rows)
        outcomes = compare(workers, works(systems, rows), rounds)
        return outcomes, {"settings": workers.settings(), "agreement": agreement}


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="gpt2")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="some of a model's")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, help="others than all of a model's"
    )
    parser.add_argument("--check", action="store_true", help="first see that all compute the same")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    systems = arguments.systems or COMPARED[arguments.model]
    work = prepare(arguments.model, arguments.work).work
    rows = arguments.rows or USUAL[arguments.model]
    outcomes, about = measure(systems, work, arguments.threads, rounds, rows, check=arguments.check)
    ours = next((name for name in systems if name.startswith(OURS)), OURS)
    print(table(outcomes, ours))
    found = [outcome.to_dict(ours) for outcome in outcomes]
    values = record.record("benchmarks.decode", arguments, rounds=rounds, works=found, **about)
    record.write(values, arguments.json)


if __name__ == "__main__":
    main()
