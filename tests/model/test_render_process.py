"""The process that renders somebody else's template: its limits, its end, and who may use it."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from model.engine.grammar_check import problem_of
from model.errors import PenwrightError, UsageError
from model.prompts import JinjaTemplate, Message
from model.prompts.foreign.process import Limits, RenderProcess

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = (
    "{% for i in range(99999) %}{% for i in range(99999) %}{% for i in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
BUSY = "{% if messages[0].content == 'busy' %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"


def process(text: str, **limits: Any) -> RenderProcess:
    setup = {"text": text, "special": "<s>", "bos_token": None, "eos_token": None}
    return RenderProcess(setup, Limits(**limits))


def request(content: str = "Hi") -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    marks = ["\ue000", "\ue001", "\ue002"]
    return {"messages": messages, "tools": None, "answer": True, "spans": True, "marks": marks}


Children = Callable[[], list[psutil.Process]]


@pytest.fixture(autouse=True)
def children() -> Iterator[Children]:
    """The processes that the test has started. None is left, not even a dead one, once nobody
    holds its template."""
    gc.collect()
    before = set(psutil.Process().children())

    def new() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child not in before]

    yield new
    gc.collect()
    assert new() == []


HOSTILE = {
    "endless": (ENDLESS, "takes too long"),
    "large number": ("{{ (10 ** 8) ** (10 ** 8) }}", "takes too (long|much memory)"),
    "large text": ("{{ 'a' * 10**9 }}", "takes too much memory"),
    "doubled text": (
        "{% set ns = namespace(x='a') %}"
        "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
        "takes too much memory",
    ),
    "large lists": (
        "{% set ns = namespace(x=[1]) %}"
        "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
        "takes too much memory",
    ),
    "flood": (
        "{% for i in range(99999) %}{{ 'abcdefghij' * 100 }}{% endfor %}",
        "writes more than",
    ),
    "one flood": ("{{ 'a' * 10**7 }}", "writes more than 4194304 characters"),
    "range": ("{% for i in range(10**9) %}{% endfor %}", "fails: OverflowError: Range too big"),
    "recursion": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "is nested too deeply"),
    "nested": ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "is nested too deeply"),
    "padding": ("{{ '%999999999d' % 1 }}", "takes too much memory"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails: SecurityError"),
    "globals": ("{{ cycler.__init__.__globals__.os.system('ls') }}", "fails: SecurityError"),
    "attribute": ("{{ (''|attr('__class__'))() }}", "fails: SecurityError"),
    "format": ("{{ '{0.__class__.__mro__}'.format(1)() }}", "fails: (SecurityError|TypeError)"),
    "changes": ("{{ messages.append(1) }}", "fails: SecurityError"),
    "file": ("{% include '/etc/passwd' %}", "fails: TypeError: no loader"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_template_is_one_line_within_its_limits(case: str) -> None:
    text, message = HOSTILE[case]
    rendering = process(text, cpu=1)
    with pytest.raises(UsageError, match=f"^the chat template {message}") as caught:
        rendering.ask(request())
    assert "\n" not in str(caught.value)


def test_the_time_on_the_wall_is_bounded_too(children: Children) -> None:
    rendering = process(ENDLESS, cpu=1000, wall=2)
    started = time.monotonic()
    with pytest.raises(UsageError, match="takes too long"):
        rendering.ask(request("Hi" * 2**20))
    assert time.monotonic() - started >= 2
    assert children() == []


def test_a_process_that_reads_nothing_holds_nobody(children: Children) -> None:
    rendering = process(BUSY)
    rendering.ask(request())
    [child] = children()
    child.suspend()
    assert rendering._running is not None
    rendering._running._wall = 0.5
    with pytest.raises(UsageError, match="takes too long"):
        rendering.ask(request("Hi" * 2**20))
    assert rendering.ask(request())["text"] == "Hi"


def test_after_a_limit_the_next_conversation_is_rendered() -> None:
    rendering = process(BUSY, cpu=1)
    assert rendering.ask(request())["text"] == "Hi"
    with pytest.raises(UsageError, match="takes too long"):
        rendering.ask(request("busy"))
    assert rendering.ask(request())["text"] == "Hi"


def test_cpu_time_is_counted_for_each_conversation(children: Children) -> None:
    text = "{% for i in range(2) %}{% for i in range(99999) %}{% endfor %}{% endfor %}Hi"
    rendering = process(text, cpu=1)
    rendering.ask(request())
    [child] = children()
    while sum(child.cpu_times()[:2]) < 3:  # seconds, beyond any limit for one
        rendering.ask(request())
    assert children() == [child]


def test_one_that_is_killed_between_conversations_is_started_again(children: Children) -> None:
    rendering = process(BUSY)
    for _ in range(3):
        assert rendering.ask(request())["text"] == "Hi"
        [child] = children()
        child.kill()


def test_one_that_is_killed_at_work_is_started_again(children: Children) -> None:
    rendering = process(BUSY, cpu=1000, wall=60)
    rendering.ask(request())
    [first] = children()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(rendering.ask, request("busy"))
        wait_until_busy(first)
        first.kill()
        while not (others := [child for child in children() if child.pid != first.pid]):
            time.sleep(0.01)
        wait_until_busy(others[0])
        others[0].kill()
        with pytest.raises(UsageError, match=r"ends the process that renders it \(SIGKILL\)"):
            answer.result()
    assert rendering.ask(request())["text"] == "Hi"


def wait_until_busy(child: psutil.Process) -> None:
    """Until it has worked for a while longer than it takes to start."""
    used = sum(child.cpu_times()[:2])
    while sum(child.cpu_times()[:2]) < max(used, 0.3) + 0.3:
        time.sleep(0.01)


def test_many_threads_share_one(children: Children) -> None:
    template = JinjaTemplate.of("{{ messages[0].content }}", ["<s>"])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: template.render([Message("user", f"{i}")]), range(200)))
        assert [part.text for [part] in found] == [f"{i}" for i in range(200)]  # type: ignore[union-attr]
    assert len(children()) == 1


def test_it_ends_when_it_is_closed_and_starts_again(children: Children) -> None:
    rendering = process(BUSY)
    for _ in range(2):
        rendering.ask(request())
        assert len(children()) == 1
        rendering.close()
        assert children() == []


def test_an_interrupt_leaves_nothing_half_read() -> None:
    rendering = process(BUSY, cpu=1000)
    rendering.ask(request())
    real, interrupted = threading.Thread.join, []

    def join(self: threading.Thread, timeout: float | None = None) -> None:
        real(self, timeout)
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "join", join)
        with pytest.raises(KeyboardInterrupt):
            rendering.ask(request("a"))
    assert rendering.ask(request("b"))["text"] == "b"


def test_a_python_that_does_not_start_is_no_fault_of_the_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PenwrightError, match="a chat template cannot be rendered: ") as caught:
        process(BUSY).ask(request())
    assert not isinstance(caught.value, UsageError)


def test_a_package_in_the_working_directory_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by the process that checks grammars."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert process(BUSY).ask(request())["text"] == "Hi"
    assert problem_of('{"grammars": [{"json_schema": {"type": "object"}}]}') is None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_it_sees_no_secrets_and_has_no_files_but_its_own(
    monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    monkeypatch.setenv("PENWRIGHT_API_KEY", "secret")
    rendering = process(BUSY)
    rendering.ask(request())
    [child] = children()
    assert "PENWRIGHT_API_KEY" not in child.environ()
    assert "PYTHONPATH" in child.environ()
    files = {os.readlink(file) for file in Path(f"/proc/{child.pid}/fd").iterdir()}
    assert all(name.startswith(("pipe:", "/dev/null")) for name in files)
    assert child.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)


def run(script: str) -> "subprocess.Popen[str]":
    program = (
        "import os, sys, time\n"
        "from model.prompts import JinjaTemplate, Message\n"
        "template = JinjaTemplate.of('{{ messages[0].content }}', ['<s>'])\n"
        "def ask(text):\n"
        "    [part] = template.render([Message('user', text)])\n"
        "    assert part.text == text\n"
        "def child():\n"
        "    return template._process._running._process.pid\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program + script],
        stdin=subprocess.PIPE,  # what is inherited may be at its end already
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_a_process_of_its_own() -> None:
    done = run(
        "ask('a'); first = child()\n"
        "if (pid := os.fork()) == 0:\n"
        "    ask('b'); assert child() != first\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "ask('c'); assert child() == first\n"
        "print('fine')\n"
    )
    assert done.communicate(timeout=120) == ("fine\n", None)
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_it_ends_with_whoever_started_it(end: str) -> None:
    done = run(f"ask('a'); print(child(), flush=True); sys.stdin.readline(); {end}")
    assert done.stdout is not None
    child = psutil.Process(int(done.stdout.readline()))
    done.communicate(timeout=120)
    child.wait(timeout=60)
