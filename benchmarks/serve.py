"""Load over HTTP: what the service keeps of the engine's rate, and how long a short request waits.

    python -m benchmarks.serve [--rounds 5] [--requests 128] [--concurrency 32] [--json FILE]
    python -m benchmarks.serve --url http://HOST:PORT [--rate 4] [--stream] [--ttft-ms 200 …]

Without --url it starts `penwright-serve` with GPT-2 124M in int8 on this machine, whose cores the
client shares, and measures two things.

The share of the engine's rate: `--concurrency` clients send prompts of 16 to 128 tokens and want 64
new ones, answered in one piece or streamed. In the same round the engine alone (`Engine.run`, as
many slots) answers prompts of the same lengths.

A short request beside long ones: prompts of 32 tokens arrive as a Poisson process, streamed;
first by themselves, then while one client sends prompts of 900 tokens without a pause.

With --url it loads a server that runs: at a fixed concurrency, or at a Poisson `--rate`, and prints
one run's figures. Percentiles are by the nearest rank, in milliseconds.
"""

import argparse
import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpt2 import Files
from benchmarks.http_load import (
    Ask,
    Client,
    Limits,
    Reply,
    ask,
    at_concurrency,
    at_rate,
    percentiles,
    prompt,
    summary,
)
from benchmarks.models import prepare
from benchmarks.rounds import Outcome, say, table
from benchmarks.server import Server
from benchmarks.systems import OURS
from benchmarks.worker import SETTLE_SECONDS, Worker
from model.tokenizer.hugging_face import read_tokenizer

ENGINE, WHOLE, STREAMED = "engine", "http, in one piece", "http, streamed"
SHORT, SHORT_NEW, LONG, LONG_NEW = 32, 16, 900, 8
SAMPLING = {"temperature": 0.8}


def texts(count: int, *seed: object) -> list[str]:
    """Prompts of 16 to 128 tokens; other ones for another seed."""
    generator = random.Random(repr(seed))
    return [prompt(16 + round(112 * (i % 16) / 15), generator) for i in range(count)]


def load(url: str, given: argparse.Namespace, *, stream: bool, seed: object) -> list[Reply]:
    """Send the requests of one run."""
    found = texts(given.requests, seed, stream)
    asks = [ask(text, given.new, stream=stream, seed=i) for i, text in enumerate(found)]
    if given.rate:
        return asyncio.run(at_rate(url, asks, given.rate, seed=len(asks)))
    return asyncio.run(at_concurrency(url, asks, given.concurrency))


def of_engine(
    server: Server, files: Files, given: argparse.Namespace, rounds: int
) -> tuple[Outcome, dict[str, Any]]:
    """Rates of the engine alone and of the service, in turns; all figures of the last round."""
    outcome = Outcome(f"{given.concurrency} clients over HTTP", "tokens/s")
    figures: dict[str, Any] = {}
    limits = limits_of(given)
    tokenizer = read_tokenizer(files.hugging_face)
    names = [ENGINE, WHOLE, STREAMED]
    options = {"slots": given.slots, "adapters": ()}
    with Worker(OURS, files.work, given.threads, **options) as engine:

        def of_engine_alone(number: int) -> float:
            prompts = [tokenizer.encode(text) for text in texts(given.requests, number, ENGINE)]
            samplings = [{**SAMPLING, "seed": i} for i in range(len(prompts))]
            call = engine.call("generate", prompts=prompts, new=given.new, samplings=samplings)
            return float(len(prompts) * given.new / call.seconds)

        def over_http(name: str, number: int) -> float:
            time.sleep(SETTLE_SECONDS)
            replies = load(server.url, given, stream=name == STREAMED, seed=number)
            figures[name] = summary(replies, limits)
            if figures[name]["failed"]:
                outcome.fail(name, figures[name]["first_error"])
            return float(figures[name]["tokens_per_s"])

        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warm-up")
            for name in names[number % 3 :] + names[: number % 3]:
                rate = of_engine_alone(number) if name == ENGINE else over_http(name, number)
                if number and name not in outcome.failed:
                    outcome.rates.setdefault(name, []).append(rate)
    return outcome, figures


async def short_requests(url: str, asks: list[Ask], rate: float, longs: bool) -> list[Reply]:
    """The short ones, and with `longs` a client that sends long ones until they are answered."""
    done = asyncio.Event()

    async def send_longs() -> list[Reply]:
        client, replies, generator = Client(url), [], random.Random(repr(asks[0].body))
        while not done.is_set():
            text = prompt(LONG, generator)
            replies.append(await client.send(ask(text, LONG_NEW, stream=False, kind="long")))
        await client.close()
        return replies

    beside = asyncio.create_task(send_longs()) if longs else None
    replies = await at_rate(url, asks, rate, seed=1)
    done.set()
    return replies + (await beside if beside else [])


def beside_long_ones(server: Server, given: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """TTFT of short requests, pooled over the rounds: alone, and beside 900-token prompts."""
    waits: dict[bool, list[float]] = {False: [], True: []}
    answered = failed = 0
    for number in range(rounds + 1):
        say(f"short requests, round {number} of {rounds}" if number else "warm-up")
        for longs in (False, True):
            generator = random.Random(repr((number, longs)))
            asks = [
                ask(prompt(SHORT, generator), SHORT_NEW, stream=True, kind="short", seed=i)
                for i in range(given.short_requests)
            ]
            replies = asyncio.run(short_requests(server.url, asks, given.short_rate, longs))
            if number:
                failed += sum(not reply.ok for reply in replies)
                answered += sum(reply.ok and reply.kind == "long" for reply in replies)
                waits[longs] += [
                    reply.ttft
                    for reply in replies
                    if reply.ok and reply.kind == "short" and reply.ttft is not None
                ]
    alone, beside = percentiles(waits[False]), percentiles(waits[True])
    found = {"alone_ttft_ms": alone, "beside_ttft_ms": beside, "long_answered": answered}
    found |= {"failed": failed, "short_rate": given.short_rate}
    if alone and beside:
        found["p99_beside_to_p50_alone"] = round(beside["p99"] / alone["p50"], 3)
    return found


def limits_of(given: argparse.Namespace) -> Limits:
    return Limits(given.ttft_ms, given.itl_ms, given.tpot_ms, given.e2e_ms)


def arguments() -> argparse.Namespace:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--url", help="load this server and start none")
    parser.add_argument("--requests", type=int, default=128, help="in each round")
    parser.add_argument("--concurrency", type=int, default=32, help="clients at once")
    parser.add_argument("--rate", type=float, help="with --url: arrivals a second, in place of it")
    parser.add_argument("--stream", action="store_true", help="with --url: stream the answers")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--slots", type=int, default=32, help="of the server and of the engine")
    parser.add_argument("--short-requests", type=int, default=60, help="in each round")
    parser.add_argument("--short-rate", type=float, default=4.0, help="arrivals a second")
    for name in ("ttft", "itl", "tpot", "e2e"):
        parser.add_argument(f"--{name}-ms", type=float, help="a limit of goodput")
    given = parser.parse_args()
    if given.rate and not given.url:
        parser.error("--rate needs --url: a server to load")
    if given.quick:
        given.requests, given.short_requests = given.concurrency, 8
    return given


def main() -> None:
    given = arguments()
    if given.url:
        figures = summary(load(given.url, given, stream=given.stream, seed=0), limits_of(given))
        print(json.dumps(figures, indent=1))
        record.write(record.record("benchmarks.serve", given, load=figures), given.json)
        return
    rounds = 1 if given.quick else given.rounds
    files = prepare("gpt2", given.work)
    flags = {"quantize": "int8", "threads": given.threads, "slots": given.slots}
    log = Path(given.work, "serve.log")
    with Server(log, base=files.penwright, **flags) as server:
        outcome, figures = of_engine(server, files, given, rounds)
        short = beside_long_ones(server, given, rounds)
        memory = server.memory()
    print(table([outcome], ENGINE))
    shares = {
        name: round(outcome.ratio(name, ENGINE), 3)
        for name in (WHOLE, STREAMED)
        if {name, ENGINE} <= outcome.rates.keys()
    }
    shown = {"share of the engine": shares, "last round": figures, "short beside long": short}
    print(json.dumps(shown, indent=1))
    values = record.record(
        "benchmarks.serve",
        given,
        rounds=rounds,
        works=[outcome.to_dict(ENGINE)],
        share_of_engine=shares,
        last_round=figures,
        short_beside_long=short,
        memory=memory,
        requests=given.requests,
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
