"""Compile one grammar where it can do no harm: in a process of its own.

    python -m model.engine.grammar_check < grammar

There are schemas of a few hundred characters whose compilation takes hours or overflows the stack,
and neither can be ended within a process that is to live on. What passes here, under a limit of
time, memory and stack, is compiled again where it is used.

It ends with 0 and says nothing, or with 1 and the reason; killed by a limit, it says nothing.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CPU_SECONDS = 1
_WALL_SECONDS = 30
_MEMORY = 2**29
_STACK = 2**20  # less than any thread of the service has

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
    """Why a grammar cannot be used, found out in another process; None if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=grammar.encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
            # Wherever the service was started, `model` is found.
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to compile"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stdout:
        return done.stdout.decode(errors="replace")
    return "it takes too much time or memory to compile, or is nested too deeply"


def compile_here(grammar: str) -> str | None:
    """Why a grammar cannot be used, found out in this process."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    limits = LLParserLimits(**LIMITS)
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=limits)
    if matcher.is_error():
        return matcher.get_error()
    matcher.compute_bitmask()
    if matcher.is_error():
        return "no text can satisfy it, or it is too complex"
    return None


def limit_this_process() -> None:
    """Bound its time and memory, as far as the system can."""
    try:
        import resource
    except ImportError:  # Windows; the time on the wall remains
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    limit_this_process()
    grammar = sys.stdin.buffer.read().decode()
    problems: list[str | None] = []
    threading.stack_size(_STACK)
    thread = threading.Thread(target=lambda: problems.append(compile_here(grammar)))
    thread.start()
    thread.join()
    [problem] = problems
    if problem is None:
        return 0
    sys.stdout.buffer.write(problem.encode(errors="replace"))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
