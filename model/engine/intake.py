"""Which requests an engine has taken and not ended, and whether it takes more.

There is room for so many sequences as have a slot or may wait. When they are that many, those who
have more than an even share of all places are refused, and others are not: a queue that one client
has filled is still there for the next.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from model.engine.request import Request
from model.errors import PenwrightError, UsageError


class QueueFull(PenwrightError):
    """As many requests wait as may."""


class ShuttingDown(PenwrightError):
    """The engine takes no more requests."""


class Intake:
    """For any thread."""

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots, self._max_waiting = slots, max_waiting
        self._lock = threading.Lock()
        self._accepting = True
        self._ids: set[str] = set()
        self._clients = Counter[str]()  # requests of each

    def __len__(self) -> int:
        return len(self._ids)

    def take(
        self, requests: Sequence[Request], then: Callable[[], None], *, bounded: bool = True
    ) -> None:
        """Take all of `requests` or none.

        Args:
            then: called before anything else can be taken or refused.
            bounded: whether there has to be room.

        Raises:
            QueueFull, ShuttingDown: they are not taken.
            UsageError: an id that another has, which has not ended.
        """
        ids = Counter(request.id for request in requests)
        with self._lock:
            if not self._accepting:
                raise ShuttingDown("the engine is shutting down")
            for request_id, times in ids.items():
                if times > 1 or request_id in self._ids:
                    raise UsageError(f"id is {request_id!r}, as another's; it must be unique")
            clients = self._clients + Counter(request.client for request in requests)
            if bounded:
                self._check_room(len(requests), clients, {each.client for each in requests})
            self._ids.update(ids)
            self._clients = clients
            then()

    def _check_room(self, new: int, clients: Counter[str], theirs: set[str]) -> None:
        places, held = self._slots + self._max_waiting, len(self._ids)
        share = places // max(1, len(clients))
        if held + new > places and any(clients[client] > share for client in theirs):
            raise QueueFull(
                f"{max(0, held - self._slots)} requests are waiting already, of "
                f"{self._max_waiting}; there is no room for {new} more"
            )

    def release(self, request: Request) -> None:
        """A request has ended."""
        with self._lock:
            self._ids.remove(request.id)
            self._clients -= Counter([request.client])

    def refuse_more(self) -> None:
        with self._lock:
            self._accepting = False
