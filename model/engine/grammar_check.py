"""Compile one grammar where it can do no harm: in a process of its own.

    python -m model.engine.grammar_check < grammar

There are schemas of a few hundred characters whose compilation takes hours or overflows the stack,
and neither can be stopped within a process that is to live on. What passes here, under limits of
time, memory and stack, is compiled again where it is used.

It ends with 0, or with 3 and the reason why the grammar cannot be used. A limit kills it.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model.engine.json_schema import subschemas
from model.errors import PenwrightError
from model.subprocesses import limit_cpu, limit_memory, python_path

if TYPE_CHECKING:
    from llguidance import LLMatcher

logger = logging.getLogger(__name__)

_CPU_SECONDS = 1
_WALL_SECONDS = 30
_MEMORY = 2**29
_STACK = 2**20  # less than any thread of the service has
_REFUSED = 3  # Python itself ends with 1 or 2 when something is wrong with the program
_TOO_MUCH = "it takes too much time or memory to compile, or is nested too deeply"

LIMITS: Mapping[str, Any] = {
    # A step of a hostile grammar then takes at most some 50 ms, and its states some 50 MB.
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 20_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
"""Of the library's parser, as `LLParserLimits` has them."""


def problem_of(grammar: str) -> str | None:
    """Why a grammar cannot be used, found out in another process; None if it can.

    Raises:
        PenwrightError: that process does not run; the grammar may be good.
    """
    try:
        done = subprocess.run(
            # Without -P, a package in the working directory could stand for `model`.
            [sys.executable, "-P", "-m", __name__],
            input=grammar.encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
            env={**os.environ, "PYTHONPATH": python_path()},
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to compile"
    except OSError as error:
        logger.error("the process that checks constraints cannot start: %s", error)
        raise PenwrightError(f"constraints cannot be checked: {error}") from error
    if done.returncode == 0:
        return None
    if done.returncode == _REFUSED:
        return done.stdout.decode(errors="replace")
    if not 0 < done.returncode < 256:  # a signal; on Windows, an exception
        return _TOO_MUCH
    said = done.stderr.decode(errors="replace").strip()
    logger.error("the process that checks constraints ended with %d: %s", done.returncode, said)
    last = said.splitlines()[-1] if said else f"it ended with {done.returncode}"
    raise PenwrightError(f"constraints cannot be checked, for the process fails: {last}")


def compile_here(grammar: str) -> str | None:
    """Why a grammar cannot be used, found out in this process."""
    matcher = _matcher(grammar)
    if matcher.is_error():
        return matcher.get_error()
    matcher.compute_bitmask()
    if matcher.is_error():
        return "no text can satisfy it, or it is too complex"
    dead = _dead_patterns(grammar) if '"patternProperties"' in grammar else None
    return dead or next(filter(None, map(compile_here, _parts(grammar))), None)


def _parts(grammar: str) -> list[str]:
    """The grammars that one refers to; that nothing satisfies one would be met on the way there."""
    entries = json.loads(grammar)["grammars"][1:] if grammar.startswith("{") else []
    return [json.dumps({"grammars": [entry]}) for entry in entries]


def _matcher(grammar: str) -> "LLMatcher":
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    limits = LLParserLimits(**LIMITS)
    return LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=limits)


def _dead_patterns(grammar: str) -> str | None:
    """Whether a schema's patterns match no names but those that its `properties` has.

    Behind the last property the library would still allow a comma, and then nothing.
    """
    for entry in json.loads(grammar)["grammars"]:
        for part in subschemas(entry.get("json_schema")):
            names, patterns = part.get("properties"), part.get("patternProperties")
            closed = part.get("additionalProperties") is False
            if closed and names and patterns and _nothing_follows([*names], [*patterns]):
                shown = ", ".join(map(json.dumps, patterns))
                return (
                    f"the patternProperties {shown} match only names that are in properties, which "
                    'is not supported beside "additionalProperties": false'
                )
    return None


def _nothing_follows(names: list[str], patterns: list[str]) -> bool:
    """Whether an object with all of `names` can have no other that one of `patterns` matches."""
    schema = {
        "type": "object",
        "properties": {name: {"type": "null"} for name in names},
        "patternProperties": dict.fromkeys(patterns, True),
        "additionalProperties": False,
        "required": names,
        "x-guidance": {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False},
    }
    matcher = _matcher(json.dumps({"grammars": [{"json_schema": schema}]}))
    text = "{" + "".join(f"{json.dumps(name, ensure_ascii=False)}:null," for name in names)
    if not all(map(matcher.consume_token, text.encode())):
        return False
    matcher.compute_bitmask()
    return matcher.is_error()


def main() -> int:
    import llguidance  # noqa: F401  # before the limits: a failure is no fault of the grammar

    limit_memory(_MEMORY)
    limit_cpu(_CPU_SECONDS)
    grammar = sys.stdin.buffer.read().decode()
    problems: list[str | None] = []

    def compile_it() -> None:
        try:
            problems.append(compile_here(grammar))
        except MemoryError:
            problems.append(_TOO_MUCH)
        except BaseException as error:  # what the library panics with is no Exception
            problems.append(f"the grammar library fails with it: {type(error).__name__}")

    threading.stack_size(_STACK)
    thread = threading.Thread(target=compile_it)
    thread.start()
    thread.join()
    [problem] = problems
    if problem is None:
        return 0
    sys.stdout.buffer.write(problem.encode(errors="replace"))
    return _REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
