"""The image as it is built and run, by Docker itself (make test-image).

PENWRIGHT_BUILD_ARGS are further arguments of `docker build`, where the index with torch's CPU
builds is not reached.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import SMOLLM2

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1.1e9
"""Of the CPU image, over the one that it is built on."""

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=ROOT)
    if check:
        assert done.returncode == 0, f"docker {shlex.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout


def build(*arguments: str) -> str:
    """Build the image, and give its id."""
    extra = shlex.split(os.environ.get("PENWRIGHT_BUILD_ARGS", ""))
    return docker("build", "--quiet", *extra, *arguments, ".").strip()


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("docker") is None or not docker("info", check=False):
        pytest.skip("there is no Docker engine")
    return build()


@contextlib.contextmanager
def container(image: str, *arguments: str) -> Iterator[tuple[str, httpx.Client]]:
    """The service in a container: the container's name, and a client."""
    name = f"penwright-{uuid.uuid4().hex[:8]}"
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    anonymous = ("--env", "PENWRIGHT_ALLOW_ANONYMOUS=1")
    published = ("--publish", "127.0.0.1::8000")
    docker("run", "-d", "--name", name, *hardened, *anonymous, *published, *arguments, image)
    try:
        address = docker("port", name, "8000").splitlines()[0]
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            yield name, client
    finally:
        docker("rm", "--force", name)


def until_ready(name: str, client: httpx.Client) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        assert docker("inspect", "--format", "{{.State.Running}}", name).strip() == "true", docker(
            "logs", name
        )
        time.sleep(0.1)
    raise AssertionError(docker("logs", name))


def inspect(image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", image))
    return found[0]


def test_it_is_small_and_not_root(image: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert base is not None
    about = inspect(image)
    assert about["Size"] - inspect(base[1])["Size"] <= MOST_BYTES
    assert about["Config"]["User"] == "10001"
    assert about["Config"]["Healthcheck"]
    assert "0" not in docker("run", "--rm", image, "id", "-u").split()


def test_it_holds_what_the_lock_names_and_nothing_else(image: str) -> None:
    program = (
        "import importlib.metadata as m;"
        "print(*{d.name.lower().replace('_', '-') + '==' + d.version.split('+')[0]"
        " for d in m.distributions()})"
    )
    installed = set(docker("run", "--rm", image, "python3", "-c", program).split())
    lock = (ROOT / "deploy" / "locks" / "cpu.lock").read_text()
    locked = {f"{name.lower()}=={v}" for name, v in re.findall(r"^(\S+?)==([^\s+;]+)", lock, re.M)}
    assert len(locked) > 30
    of_python = {found for found in installed if found.split("==")[0] in ("pip", "wheel")}
    own = {found for found in installed if found.startswith("penwright==")}
    assert len(own) == 1
    assert installed - own - of_python == locked


def test_it_serves_from_a_read_only_root_and_stops_in_order(image: str) -> None:
    with container(image) as (name, client):
        until_ready(name, client)
        body = {"instruction": "What is the capital of Japan?", "temperature": 0, "model": "base"}
        assert "Tokyo" in client.post("/instruct", json=body).json()["response"]
        assert all(model["verified"] for model in client.get("/models").json()["models"])
        assert client.get("/").status_code == 200
        assert (
            docker("exec", name, "sh", "-c", "touch /x 2>&1 || echo refused")
            .strip()
            .endswith("refused")
        )
        state = {}
        for _ in range(300):
            state = inspect(name)["State"]
            if state["Health"]["Status"] == "healthy":
                break
            time.sleep(0.1)
        assert state["Health"]["Status"] == "healthy", state["Health"]
        docker("stop", "--time", "30", name)
        assert inspect(name)["State"]["ExitCode"] == 0


def test_it_holds_the_weights_and_their_licence(image: str) -> None:
    weights = docker("run", "--rm", image, "sh", "-c", "ls $PENWRIGHT_WEIGHTS").split()
    assert set(weights) == {SMOLLM2, SMOLLM2.replace(".gguf", ".LICENSE")}
    # And not what is only in the repository.
    assert "scratch" not in docker("run", "--rm", image, "find", "/opt/penwright/share")


def test_its_threads_follow_the_cpu_quota(image: str) -> None:
    with container(image, "--cpus", "1") as (name, client):
        until_ready(name, client)
        logs = (
            docker("logs", name)
            + subprocess.run(["docker", "logs", name], capture_output=True, text=True).stderr
        )
        [line] = [line for line in logs.splitlines() if '"loading models"' in line]
        assert json.loads(line)["threads"] == 1


def test_without_a_key_it_serves_nobody_unless_told_to(image: str) -> None:
    command = ["docker", "run", "--rm", image, "timeout", "60", "penwright-serve"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "PENWRIGHT_ALLOW_ANONYMOUS" in done.stderr


def test_two_builds_have_the_same_files(image: str) -> None:
    again = build("--no-cache")
    listing = "find /opt/penwright /opt/weights -type f | sort | xargs -d '\\n' sha256sum"
    first, second = (docker("run", "--rm", i, "sh", "-c", listing) for i in (image, again))
    assert len(first.splitlines()) > 1000
    assert first == second
