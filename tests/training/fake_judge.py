"""A server that marks answers as a test tells it to, for the tests of judges."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | bytes | float
"""What the server does: says a text, gives an HTTP status, sends a raw body, or sleeps."""

KEY = "sk-quite-secret-123"


class FakeJudge:
    """A server that speaks one of the two APIs and does what it is told to, call after call."""

    def __init__(self) -> None:
        self.api = "openai"
        self.models = ["marker"]
        self.calls: list[dict[str, Any]] = []
        """Each with its path, headers and body."""
        self.script: Callable[[int, str], Answer] = lambda call, prompt: "70"
        self.running = self.most_running = 0
        self.retry_after: str | None = None
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                value: dict[str, Any] | None = None
                if outer.api == "ollama" and self.path == "/api/version":
                    value = {"version": "0.9"}
                if outer.api == "ollama" and self.path == "/api/tags":
                    value = {"models": [{"name": name} for name in outer.models]}
                if outer.api == "openai" and self.path == "/v1/models":
                    value = {"data": [{"id": name} for name in outer.models]}
                self._send(404 if value is None else 200, json.dumps(value).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    number = len(outer.calls)
                    outer.calls.append(
                        {"path": self.path, "headers": dict(self.headers), "body": body}
                    )
                    outer.running += 1
                    outer.most_running = max(outer.most_running, outer.running)
                try:
                    self._answer(outer.script(number, body["messages"][0]["content"]))
                finally:
                    with outer._lock:
                        outer.running -= 1

            def _answer(self, answer: Answer) -> None:
                if isinstance(answer, int):
                    message = f"trouble of {self.headers.get('authorization')}"
                    return self._send(answer, json.dumps({"error": message}).encode())
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = "33"
                if isinstance(answer, str):
                    message_ = {"role": "assistant", "content": answer}
                    ollama = {"message": message_, "done": True}
                    value = (
                        ollama if outer.api == "ollama" else {"choices": [{"message": message_}]}
                    )
                    answer = json.dumps(value).encode()
                return self._send(200, answer)

            def _send(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("content-length", str(len(body)))
                    if outer.retry_after is not None:
                        self.send_header("retry-after", outer.retry_after)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client did not wait
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def prompts(self) -> list[str]:
        return [call["body"]["messages"][0]["content"] for call in self.calls]
