"""`penwright-train judge`: another language model marks the answers of a checkpoint.

    penwright-train judge checkpoints/scratch/instruct --data instruction-data.json \\
        --judge-url http://localhost:11434 --judge-model llama3 --json judged.json

The checkpoint answers those rows of the data that did not train it, greedily. Then a judge, behind
any server that speaks OpenAI's `/v1/chat/completions` or Ollama's `/api/chat`, marks each answer
from 0 to 100 in the book's words. A mark that cannot be read is a failure: it counts as 0, and is
reported with its text. The interval of the mean is a percentile bootstrap at 95% over the answers.

What is done is kept in FILE.rows.jsonl, line by line: the same command goes on where it was cut
off, or where the judge was out of reach, and asks for nothing twice. A key is read from the
environment, by default from PENWRIGHT_JUDGE_KEY, and is never written or shown.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file
from model.checkpoint.files import check_file
from model.errors import UsageError
from model.prompts import Alpaca
from training.commands import flags
from training.data.conversations import Instruction
from training.data.documents import text_hash
from training.loop.settings import LoopSettings
from training.measure.answers import MAX_NEW_TOKENS, Response, prompt_tokens, respond
from training.measure.evaluation import Loaded, instruction_rows, load
from training.measure.judge import APIS, QUESTION_VERSION, Judge, JudgeSettings, connect
from training.measure.marks import JudgedFile, Mark, Marking, summary
from training.report.tables import print_metrics
from training.tuning.card import portable_command

_KEY = "PENWRIGHT_JUDGE_KEY"
_CHUNK = 32  # questions that are answered, and then kept, at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="checkpoint to judge")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="instruction files")
    flags.add_encoding(parser)
    parser.add_argument("--base", type=Path, help="base of the adapter, if it has moved")
    parser.add_argument("--json", type=Path, help="file to write (default: DIR.judge.json)")
    parser.add_argument("--test", nargs="+", type=Path, default=[], help="further files")
    parser.add_argument(
        "--rows",
        choices=("test", "all"),
        default="test",
        help="those that did not train the checkpoint, or all (test)",
    )
    flags.add_parts_of(parser)
    parser.add_argument("--limit", type=int, default=0, help="first so many rows alone; 0: all")
    parser.add_argument(
        "--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help=f"({MAX_NEW_TOKENS})"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    group = parser.add_argument_group("judge")
    group.add_argument("--judge-url", required=True, metavar="URL", help="address of the server")
    group.add_argument("--judge-model", metavar="NAME", help="(default: the only one it has)")
    group.add_argument("--judge-api", default="auto", help=f"one of {', '.join(APIS)} (auto)")
    group.add_argument(
        "--judge-key-env",
        default=_KEY,
        metavar="VARIABLE",
        help=f"environment variable that holds the key, if one is needed ({_KEY})",
    )
    group.add_argument("--judge-timeout", type=float, default=120.0, help="seconds (120)")
    group.add_argument("--judge-retries", type=int, default=4, help="further tries (4)")
    group.add_argument(
        "--judge-max-tokens", type=int, default=0, help="of an answer; 0: as the server likes"
    )
    group.add_argument("--concurrency", type=int, default=4, help="questions at a time (4)")


def run(args: argparse.Namespace) -> None:
    settings = _judge_settings(args)
    out = args.json or Path(os.path.abspath(args.checkpoint) + ".judge.json")
    check_file(out, "--json")
    check_file(_rows_file(out), "--json")
    flags.keep_inputs("--json", out, [*args.data, *args.test])
    device = LoopSettings(steps=1, device=args.device).torch_device
    loaded = load(args.checkpoint, args.base, device, args.parts_of)
    if loaded.network.head is not None:
        raise UsageError(f"{args.checkpoint} is a classifier: it answers no instructions")
    paths, whole = [*args.data, *args.test], args.rows == "all"
    rows, sources, part = instruction_rows(loaded, paths, whole=whole, encoding=args.encoding)
    chosen = hashlib.sha256("\n".join(text_hash(row.identity) for row in rows).encode())
    if args.limit and args.limit < len(rows):
        part = f"the first {args.limit} of {part}"
    rows = rows[: args.limit or None]
    print(part)
    file, judge = asyncio.run(
        _judged(args, settings, loaded, rows, sources, chosen.hexdigest(), out)
    )
    marks = [file.marks[row] for row in range(1, len(rows) + 1)]
    metrics = {"judge": summary(marks)}
    report = {
        "command": portable_command(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "checkpoint": {"name": args.checkpoint.resolve().name, "id": loaded.id},
        "judge": {
            **{name: getattr(judge.settings, name) for name in ("url", "api", "model")},
            "question_version": QUESTION_VERSION,
        },
        "data": {"files": sources, "part": args.rows, "rows": part},
        "metrics": metrics,
        "rows": [
            {
                "row": number,
                **asdict(row),
                "response": file.responses[number],
                **asdict(file.marks[number]),
            }
            for number, row in enumerate(rows, start=1)
        ],
    }
    content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    # A judge may send half of a surrogate pair: it stays the escape that it was.
    write_file(out, content.encode("utf-8", "backslashreplace"))
    print_metrics(metrics)
    for row, mark in enumerate(marks, start=1):
        if mark.failure is not None:
            said = "" if mark.answer is None else f": {mark.answer[:200]!r}"
            print(f"row {row} counts as 0: {mark.failure}{said}")
    print(f"{out}: {len(marks)} answers judged by {judge.settings.model}")


def _rows_file(out: Path) -> Path:
    """What is done is kept in it, until all is."""
    return out.with_name(out.name + ".rows.jsonl")


async def _judged(
    args: argparse.Namespace,
    settings: JudgeSettings,
    loaded: Loaded,
    rows: Sequence[Instruction],
    sources: Sequence[Mapping[str, Any]],
    chosen: str,
    out: Path,
) -> tuple[JudgedFile, Judge]:
    """All rows answered and marked."""
    async with connect(settings) as judge:
        identity = {
            "checkpoint": loaded.id,
            "data": list(sources),
            "part": args.rows,
            "rows": chosen,
            "max_new_tokens": args.max_new_tokens,
            "judge": judge.settings.model,
            "question": QUESTION_VERSION,
        }
        file = JudgedFile(_rows_file(out), identity)
        _answer(loaded, rows, file, args.max_new_tokens)
        numbers = range(1, len(rows) + 1)
        await Marking(judge, file, {n: _response(rows, file, n) for n in numbers}).run(
            args.concurrency
        )
    return file, judge


def _answer(
    loaded: Loaded, rows: Sequence[Instruction], file: JudgedFile, max_new_tokens: int
) -> None:
    """Let the checkpoint answer what it has not answered yet. A question that leaves no room for
    an answer is a failure, which needs no judge."""
    base = replace(loaded.base, model=loaded.network.model)
    template = loaded.template or Alpaca()
    context = base.config.context_length
    todo = [number for number in range(1, len(rows) + 1) if number not in file.responses]
    if todo:
        print(f"answering {len(todo)} questions")
    for start in range(0, len(todo), _CHUNK):
        numbers = todo[start : start + _CHUNK]
        prompts = [prompt_tokens(rows[n - 1], base.tokenizer, template) for n in numbers]
        fitting = [n for n, prompt in zip(numbers, prompts, strict=True) if len(prompt) < context]
        questions = [rows[n - 1] for n in fitting]
        found = respond(base, loaded.network.lora, questions, template, max_new_tokens)
        texts: dict[int, str | None] = dict.fromkeys(numbers)
        texts.update((n, each.response) for n, each in zip(fitting, found, strict=True))
        file.add_responses(texts)
    for number in range(1, len(rows) + 1):
        if file.responses[number] is None and number not in file.marks:
            why = f"the question does not fit the checkpoint's context of {context} tokens"
            file.add_mark(number, Mark(0, None, why))


def _response(rows: Sequence[Instruction], file: JudgedFile, number: int) -> Response:
    row = rows[number - 1]
    response = file.responses[number] or ""
    return Response(row.instruction, row.input, row.output, response, earlier=row.earlier)


def _judge_settings(args: argparse.Namespace) -> JudgeSettings:
    """What the flags and the environment say of the judge.

    Raises:
        UsageError: one of them has a value that is not allowed.
    """
    for name, least in (("limit", 0), ("concurrency", 1), ("max_new_tokens", 1)):
        if getattr(args, name) < least:
            raise UsageError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {least}"
            )
    key = os.environ.get(args.judge_key_env)
    if key is None and args.judge_key_env != _KEY:
        # Its name is not repeated: someone may have typed the key itself.
        raise UsageError("--judge-key-env names a variable that is not set")
    return JudgeSettings(
        url=args.judge_url,
        model=args.judge_model,
        api=args.judge_api,
        key=None if key is None else key.strip(),
        timeout=args.judge_timeout,
        retries=args.judge_retries,
        max_tokens=args.judge_max_tokens,
    )
