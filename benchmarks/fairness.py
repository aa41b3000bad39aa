"""What a short request waits beside those who ask for much, and what fairness costs.

    python -m benchmarks.fairness [--models DIR] [--rounds 5] [--json FILE]

It starts `penwright-serve` on the bundled models (SmolLM2-135M) on this machine, whose cores the
client shares, and measures three things.

Beside batches: `--batches` connections send 64 prompts of 16 tokens each, for 120 new tokens each,
again and again, so that many more sequences are there than slots. Short requests arrive as a
Poisson process: /classify of five words, and /generate of eight new tokens. Their whole time.

Beside long prompts: /generate of 32 tokens for 16 new ones, streamed, arrives as a Poisson process;
first by itself, then while one connection sends prompts of 4,000 tokens without a pause. The time
to the first token. Arms take turns, a part of each in every round, and all rounds are pooled.

What it costs: an engine answers 96 prompts for 64 new tokens each with 32 slots; once as one
client's, which nobody has to pause for, and once as those of eight clients, who take turns; the
ratio of the rates, and how many had begun before the first had ended.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.http_load import Ask, Client, Reply, ask, at_rate, percentiles, prompt
from benchmarks.rounds import say
from benchmarks.server import Server
from benchmarks.speculation import BASE
from model.checkpoint import load_base
from model.cpu.quantize import quantize
from model.engine.engine import Engine
from model.engine.request import Finished, Generate, Request
from model.engine.settings import EngineSettings
from model.sampling import SamplingSettings

MODELS = Path(__file__).resolve().parent.parent / "checkpoints" / "default"
SEQUENCES, BATCH_PROMPT, BATCH_NEW = 64, 16, 120
SHORT, SHORT_NEW, LONG, LONG_NEW = 32, 16, 4000, 8
CLIENTS, PROMPTS, NEW = 8, 96, 64


def batch(generator: random.Random) -> Ask:
    """A request of many sequences."""
    fields = {
        "prompt": [prompt(BATCH_PROMPT, generator) for _ in range(SEQUENCES)],
        "max_new_tokens": BATCH_NEW,
        "ignore_eos": True,
        "temperature": 0.8,
    }
    return Ask(json.dumps(fields).encode(), stream=False, kind="batch")


def short(number: int, generator: random.Random) -> Ask:
    """A label, or a few new tokens, by turns."""
    if number % 2:
        return ask(prompt(SHORT, generator), 8, stream=False, kind="generate", seed=number)
    body = json.dumps({"text": prompt(5, generator)}).encode()
    return Ask(body, stream=False, kind="classify", path="/classify")


async def beside(
    url: str, asks: Sequence[Ask], rate: float, others: int, other: Any
) -> list[Reply]:
    """`asks` at a rate, while so many connections send what `other` makes, without a pause."""
    done = asyncio.Event()

    async def send() -> list[Reply]:
        client, replies = Client(url), []
        while not done.is_set():
            replies.append(await client.send(other()))
            if not replies[-1].ok:
                await asyncio.sleep(0.5)
        await client.close()
        return replies

    sending = [asyncio.create_task(send()) for _ in range(others)]
    if others:
        await asyncio.sleep(2)  # until they have all that there is
    replies = await at_rate(url, asks, rate, seed=len(asks))
    done.set()
    return replies + [reply for each in sending for reply in await each]


def beside_batches(url: str, given: argparse.Namespace, number: int) -> list[Reply]:
    generator = random.Random(repr(("batches", number)))
    asks = [short(i, generator) for i in range(given.short_requests)]
    return asyncio.run(beside(url, asks, given.rate, given.batches, lambda: batch(generator)))


def first_tokens(url: str, given: argparse.Namespace, number: int, longs: int) -> list[Reply]:
    generator = random.Random(repr(("longs", number, longs)))
    asks = [
        ask(prompt(SHORT, generator), SHORT_NEW, stream=True, kind="short", seed=i)
        for i in range(given.short_requests)
    ]

    def long() -> Ask:
        return ask(prompt(LONG, generator), LONG_NEW, stream=False, kind="long")

    return asyncio.run(beside(url, asks, given.rate, longs, long))


def cost(given: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Rates of an engine whose sequences are those of one client, and of several."""
    torch.set_num_threads(given.threads)
    base = load_base(BASE, held="packed")
    quantize(base.model)
    generator = random.Random("cost")
    settings = EngineSettings(slots=32, reuse_prefixes=False, speculate=False)
    rates: dict[int, list[float]] = {1: [], CLIENTS: []}
    most: dict[int, int] = dict.fromkeys(rates, 0)
    for number in range(rounds + 1):
        say(f"what it costs, round {number} of {rounds}" if number else "warm-up")
        order = list(rates) if number % 2 else list(rates)[::-1]
        for clients in order:
            engine = Engine(base, {}, settings, deliver=lambda events: None)
            requests = [
                Request(
                    str(i),
                    tuple(base.tokenizer.encode(prompt(16 + i % 64, generator))),
                    Generate(NEW, SamplingSettings(temperature=0.8, seed=i), ignore_eos=True),
                    client=str(i % clients),
                )
                for i in range(PROMPTS)
            ]
            started = time.perf_counter()
            ends = engine.run(requests)
            seconds = time.perf_counter() - started
            queues = [end.timings for *_, end in ends if isinstance(end, Finished)]
            assert len(queues) == PROMPTS
            first_end = min(t.queue + t.prefill + t.decode for t in queues)
            most[clients] = max(most[clients], sum(t.queue < first_end for t in queues))
            if number:
                rates[clients].append(PROMPTS * NEW / seconds)
    shares = [many / one for one, many in zip(rates[1], rates[CLIENTS], strict=True)]
    return {
        "tokens_per_s": {str(clients): found for clients, found in rates.items()},
        "begun_before_the_first_end": {str(clients): found for clients, found in most.items()},
        "share": round(statistics.median(shares), 3),
    }


def arguments() -> argparse.Namespace:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--batches", type=int, default=5, help="connections that send batches")
    parser.add_argument("--short-requests", type=int, default=100, help="in each round and arm")
    parser.add_argument("--rate", type=float, default=4.0, help="of short requests, a second")
    given = parser.parse_args()
    if given.quick:
        given.short_requests = 8
    return given


def main() -> None:
    given = arguments()
    rounds = 1 if given.quick else given.rounds
    log = Path(given.work, "fairness.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = {"threads": given.threads, "max_waiting": 512}
    arms: dict[str, list[Reply]] = {"alone": [], "long": [], "batch": []}
    with Server(log, models=given.models, **flags) as server:
        for number in range(rounds + 1):
            say(f"over HTTP, round {number} of {rounds}" if number else "warm-up")
            found = {
                "alone": first_tokens(server.url, given, number, 0),
                "long": first_tokens(server.url, given, number, 1),
                "batch": beside_batches(server.url, given, number),
            }
            for name, replies in found.items():
                arms[name] += replies if number else []
    alone, long = (
        percentiles(r.ttft for r in arms[name] if r.kind == "short" and r.ttft is not None)
        for name in ("alone", "long")
    )
    batches = [reply for reply in arms["batch"] if reply.kind == "batch"]
    shown = {
        "beside_batches_ms": {
            kind: percentiles(r.e2e for r in arms["batch"] if r.kind == kind and r.ok)
            for kind in ("classify", "generate")
        },
        "batches_answered": sum(reply.ok for reply in batches),
        "ttft_alone_ms": alone,
        "ttft_beside_long_prompts_ms": long,
        "p99_ratio": round(long["p99"] / alone["p99"], 3),
        "p50_ratio": round(long["p50"] / alone["p50"], 3),
        "long_answered": sum(reply.ok and reply.kind == "long" for reply in arms["long"]),
        "failed": sum(not r.ok for replies in arms.values() for r in replies if r.kind != "batch"),
        "cost": cost(given, rounds),
    }
    print(json.dumps(shown, indent=1))
    record.write(record.record("benchmarks.fairness", given, rounds=rounds, **shown), given.json)


if __name__ == "__main__":
    main()
