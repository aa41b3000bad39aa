"""What is known of one HTTP request while it is answered: for its log lines, metrics and trace.

`app.http.requests.RecordRequests` makes one for each request. It is in a context variable, so that
whatever works for the request, at any depth and in any thread that it starts, finds it without
being handed it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from app.errors import Problem
from app.keys.limits import Allowance
from model.engine.request import Request, Timings

POLLED = frozenset({"/healthz", "/health", "/readyz", "/metrics"})
"""Asked for every few seconds for ever: no trace, and a log line only where the answer is bad."""
IGNORED_FIELDS = "X-Ignored-Fields"
"""The header that names the fields of a request that were taken and ask for nothing here."""


@dataclass
class Work:
    """What the engine does for a request: the sequences that it was given together."""

    task: str
    model: str
    requests: Sequence[Request]
    submitted: float
    """On the clock of `time.monotonic`."""
    first_token: float | None = None
    """Seconds from there to the first piece of text, or to the label."""
    prompt_tokens: int = 0
    """Of the sequences that have ended, as the following; each counts its prompt."""
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasons: list[str] = field(default_factory=list)
    queue: float = 0.0
    """Seconds until all of them were admitted to a step."""
    first: float = 0.0
    """Until the last of them had its first token, or its label."""
    end: float = 0.0
    """Until the last of them had ended."""

    def ended(self, reason: str, timings: Timings) -> None:
        self.reasons.append(reason)
        admitted = timings.queue
        first = admitted + timings.prefill
        self.queue = max(self.queue, admitted)
        self.first = max(self.first, first)
        self.end = max(self.end, first + timings.decode)


@dataclass
class RequestContext:
    """One HTTP request."""

    request_id: str
    trace_id: str | None = None
    """Of its trace, if it has one."""
    key: str | None = None
    """Label of the API key that it came with."""
    client: str = ""
    """Who shares the engine with others: the key, or without one the connection."""
    max_priority: int = 0
    """The most urgent that it may be."""
    priority: int = 0
    user: str | None = None
    """Who asks, as the client says."""
    problem: str | None = None
    """Kind of the problem that it was answered."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of its answer, whatever it will be."""
    allowance: Allowance | None = None
    """What its key may still use, if that is limited."""
    log_prompts: bool = False
    """Whether its texts may be logged."""
    leases: ExitStack = field(default_factory=ExitStack)
    """What it uses until it is answered."""
    stream_error: int | None = None
    """Status of an error that came after the answer had begun."""
    work: list[Work] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """For the log line of the request; ids come by themselves."""
        found: dict[str, Any] = {}
        if self.key is not None:
            found["key"] = self.key
        if self.user is not None:
            found["user"] = self.user
        if self.problem is not None:
            found["problem"] = self.problem
        if self.stream_error is not None:
            found["stream_error"] = self.stream_error
        if self.work:
            work = self.work[0]
            found |= {
                "model": work.model,
                "sequences": sum(len(w.requests) for w in self.work),
                "prompt_tokens": sum(w.prompt_tokens for w in self.work),
                "cached_tokens": sum(w.cached_tokens for w in self.work),
                "completion_tokens": sum(w.completion_tokens for w in self.work),
                "queue": round(work.queue, 6),
                "finish": sorted({reason for w in self.work for reason in w.reasons}),
            }
            if work.first_token is not None:
                found["ttft"] = round(work.first_token, 6)
        return found


REQUEST_CONTEXT: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
"""That of the request that is being answered; None outside of one."""


def reserve_tokens(amount: int) -> None:
    """Set aside tokens of the key's limit for a request that is submitted a part at a time, so that
    it is refused before its first part or not at all.

    Raises:
        Problem: 429, the key has not enough left; 400, it never has as many.
    """
    context = REQUEST_CONTEXT.get()
    if context is not None and context.allowance is not None:
        context.allowance.reserve(amount)


def use_priority(priority: int) -> None:
    """Have the engine treat the request that is being answered so.

    Raises:
        Problem: 403, its key does not allow that.
    """
    context = REQUEST_CONTEXT.get()
    if context is None:
        return
    if priority > context.max_priority:
        who = "this API key has" if context.key is not None else "requests without an API key have"
        raise Problem(
            403,
            "priority-not-allowed",
            f"priority is {priority}; {who} at most {context.max_priority} "
            "(penwright-keys add --max-priority)",
            extra={"max_priority": context.max_priority},
        )
    context.priority = priority


def note_user(user: str | None) -> None:
    """Have the access log say who asks."""
    context = REQUEST_CONTEXT.get()
    if context is not None:
        context.user = user
