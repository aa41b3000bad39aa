"""The service starts and answers without a network: nothing is downloaded, nobody is called."""

import signal
from pathlib import Path
from typing import Any

import httpx

from .conftest import process, until_ready

GUARDED = """
import socket, sys

def is_here(host):
    return host in ("127.0.0.1", "::1", "localhost", None, "")

def watch(event, args):
    # Everything that Python's sockets do passes here, whichever library asks for it.
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not is_here(host):
        sys.stderr.write(f"NETWORK {event} {host}\\n")
        raise PermissionError(f"{event} to {host}: there is no network")

sys.addaudithook(watch)
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.com", 443),
):
    try:
        attempt()
    except PermissionError:
        pass
    else:
        sys.exit("the guard lets connections through")
sys.stderr.write("GUARDED\\n")

from app.cli import main
sys.exit(main())
"""
GETS = ["/healthz", "/readyz", "/models", "/metrics", "/docs", "/openapi.json"]
GETS += ["/", "/web/main.js", "/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css"]
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "The sea", "max_new_tokens": 4}),
    ("/generate", {"prompt": "The sea", "max_new_tokens": 4, "stream": True}),
    ("/instruct", {"instruction": "Say it.", "max_new_tokens": 4}),
    ("/classify", {"text": ["free prize", "see you"]}),
    ("/tokenize", {"text": "The sea"}),
    ("/detokenize", {"tokens": [72, 101]}),
]


def test_nothing_touches_the_network(checkpoints: Path, tmp_path: Path) -> None:
    caches = {"TIKTOKEN_CACHE_DIR": tmp_path, "DATA_GYM_CACHE_DIR": tmp_path, "HF_HOME": tmp_path}
    flags = ("--models", str(checkpoints), "--log-level", "warning")
    settings = {name: str(path) for name, path in caches.items()}
    with process(*flags, program=("-c", GUARDED), **settings) as (started, url):
        until_ready(started, url)
        for path in GETS:
            assert httpx.get(url + path).status_code == 200, path
        for path, body in POSTS:
            answer = httpx.post(url + path, json=body, timeout=30)
            assert answer.status_code == 200, path
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 0
        assert started.stderr is not None
        text = started.stderr.read()
    # The two attempts of the guard's own test come first.
    attempts, _, served = text.partition("GUARDED\n")
    assert attempts.count("NETWORK") == 2
    assert "NETWORK" not in served
    assert not list(tmp_path.iterdir())
