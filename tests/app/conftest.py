"""Tiny checkpoints with random weights, and the service on a real port."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from app.engine.service import Service
from app.http.server import Server, server_config
from app.main import create_app
from app.settings import Settings
from model.architecture import Architecture
from model.checkpoint import Base, save_adapter, save_base
from model.classifier import ClassifierHead, Labels
from model.lora import LoRA, LoRASettings
from model.transformer import Transformer
from training.data.vocabulary import train_tokenizer

from .with_keys import ENV, write_keys

ROOT = Path(__file__).resolve().parent.parent.parent
# Long enough that a request of thousands of tokens is still running when a test looks at it.
CONTEXT = 4096
TEXT = "The old man and the sea. Once upon a time there was a little girl – she said: “né!”\n" * 30


def _network(config: Architecture, seed: int) -> Transformer:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # Larger than GPT-2's initialisation, so that the next token is not always the same.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 6
    return model.eval()


def _adapter(base: Base, out: Path, task: Any, labels: Labels | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lora = LoRA(base.config, LoRASettings(rank=2, alpha=4.0))
    lora.init_weights(generator)
    with torch.no_grad():
        for b in lora.b.values():
            b.normal_(0, 0.1, generator=generator)
    head = None
    if labels is not None:
        head = ClassifierHead(base.config.n_embd, labels)
        head.init_weights(generator)
        with torch.no_grad():
            head.score.weight.mul_(5)
    card = {"metrics": {"f1": {"value": 0.5, "n": 10}}}
    save_adapter(out, base, task=task, lora=lora, head=head, card=card)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model set: base, spam, instruct; beside it topic (three labels) and whole (no adapter)."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([TEXT], 300)
    config = Architecture(300, CONTEXT, n_layer=2, n_head=2, n_embd=16)
    card = {"metrics": {"perplexity": {"value": 300.0, "n": 1000}}}
    base = save_base(root / "base", _network(config, 1), tokenizer, card=card)
    _adapter(base, root / "spam", "classify", Labels(("ham", "spam"), positive="spam"), 2)
    _adapter(base, root / "topic", "classify", Labels(("sea", "girl", "rest")), 3)
    _adapter(base, root / "instruct", "instruct", None, 4)
    head = ClassifierHead(config.n_embd, Labels(("no", "yes"), positive="yes"))
    head.init_weights(torch.Generator().manual_seed(5))
    small = Architecture(300, 128, n_layer=1, n_head=2, n_embd=16)
    whole = _network(small, 6)
    save_base(root / "whole", whole, tokenizer, card={}, head=head, task="classify")
    names = {"generate": "base", "classify": "spam", "instruct": "instruct"}
    (root / "models.json").write_text(json.dumps({"format_version": 1, **names}))
    return root


@dataclass(frozen=True)
class Live:
    """A service that listens on a port of this machine."""

    url: str
    service: Service
    server: Server
    client: httpx.Client

    def wait(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Fail if `condition` does not come true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)

    def running(self) -> int:
        return sum(d.stats().running for d in self.service.engine_clients())

    def waiting(self) -> int:
        return sum(d.stats().waiting for d in self.service.engine_clients())

    def wait_until_idle(self) -> None:
        """Wait until nothing is left of any request."""
        [engine_client] = self.service.engine_clients()
        self.wait(lambda: self.running() == 0 and self.waiting() == 0)
        self.wait(lambda: engine_client.stats().free_blocks == engine_client.stats().blocks)
        self.wait(lambda: self.service.in_flight == 0)
        assert not engine_client._submitted


@contextlib.contextmanager
def serve(*, ready: bool = True, **settings: Any) -> Iterator[Live]:
    """Run the service in a thread; by default until it is ready."""
    values = Settings(port=0, threads=1, **settings)
    app = create_app(values)
    service: Service = app.state.service
    server = Server(server_config(app, values), service)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=120) as client:  # also on a busy machine
        live = Live(url, service, server, client)
        if ready:
            live.wait(lambda: service.state != "loading")
            assert service.state == "ready", service.failure
        try:
            yield live
        finally:
            client.close()
            service.give_up()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def live(checkpoints: Path) -> Iterator[Live]:
    """A ready service of the model set, shared by tests that leave it as it was."""
    with serve(models=checkpoints) as live:
        yield live


@pytest.fixture(scope="session")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = write_keys(tmp_path_factory.mktemp("keys"))
    with serve(models=checkpoints, api_keys=keys, api_key=ENV) as live:
        yield live


@pytest.fixture(scope="session")
def named(checkpoints: Path) -> Iterator[Live]:
    with serve(
        models=checkpoints, allowed_hosts="own.example", cors_origins="https://good.example"
    ) as live:
        yield live


@pytest.fixture
def client(live: Live) -> httpx.Client:
    return live.client


@pytest.fixture(scope="session")
def ai(live: Live) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """The server-sent events of an answer: (name, data); data is parsed if it is JSON."""
    found = []
    for block in response.read().decode().split("\n\n"):
        if not block:
            continue
        name, data = "message", ""
        for line in block.split("\n"):
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data = value
        found.append((name, data if data == "[DONE]" else json.loads(data)))
    return found


# ---- the program ----


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "PENWRIGHT" not in name}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(
    *flags: str, program: Sequence[str] = ("-m", "app.cli"), **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`penwright-serve` in a process of its own, and its address."""
    port = free_port()
    command = [sys.executable, *program, "--port", str(port), "--threads", "1", *flags]
    started = subprocess.Popen(
        command, env=environment(**settings), stderr=subprocess.PIPE, text=True
    )
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.communicate()


def until_ready(started: subprocess.Popen[Any], url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert started.poll() is None, started.communicate()[1]
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("not ready in time")
