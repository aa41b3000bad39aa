"""How much a key may use: token buckets that fill up within a minute.

A request takes one from the bucket of requests when it comes. From the bucket of tokens it takes,
before anything of it is admitted to the engine, its prompts and all that it may generate, and gets
back what it did not use when it has ended. So many requests at once cannot overdraw it, one that is
broken off gains nothing, and one that is done a part at a time is never refused halfway. What is
more than the bucket ever holds is refused for good, not until later.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence

from app.errors import Problem
from model.engine.request import Generate, Request

MINUTE = 60.0
_ROUNDING = 1e-6
"""That many may be missing: what a wait of exactly the right time can lack."""


class Bucket:
    """Holds up to `per_minute`, and fills up in a minute.

    Args:
        clock: in seconds; never goes back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def level(self) -> float:
        """What is in it."""
        now = self._clock()
        self._level += (now - self._at) * self.per_minute / MINUTE
        self._level = min(self._level, float(self.per_minute))
        self._at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Seconds until `amount`, at most what it ever holds, can be taken."""
        missing = amount - self.level()
        return 0.0 if missing <= _ROUNDING else missing * MINUTE / self.per_minute

    def take(self, amount: float) -> None:
        """Take `amount`, for which nobody has to wait; a negative one gives back."""
        self._level = min(self.level() - amount, float(self.per_minute))


class Limits:
    """The two buckets of a key; None is without limit."""

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests = None if requests is None else Bucket(requests, clock)
        self.tokens = None if tokens is None else Bucket(tokens, clock)

    def same(self, other: "Limits") -> bool:
        """Whether both allow the same."""
        mine, others = (
            [None if bucket is None else bucket.per_minute for bucket in (of.requests, of.tokens)]
            for of in (self, other)
        )
        return mine == others

    def headers(self) -> dict[str, str]:
        """What is left, named as OpenAI names it."""
        found = {}
        for kind, bucket in (("Requests", self.requests), ("Tokens", self.tokens)):
            if bucket is not None:
                full = math.ceil(bucket.wait(bucket.per_minute))
                left = max(0, math.floor(bucket.level() + _ROUNDING))
                found[f"X-RateLimit-Limit-{kind}"] = str(bucket.per_minute)
                found[f"X-RateLimit-Remaining-{kind}"] = str(left)
                found[f"X-RateLimit-Reset-{kind}"] = f"{full}s"
        return found


class Allowance:
    """What one HTTP request may take of its key's limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reserved = 0
        self._admitted = 0

    def begin(self) -> None:
        """Count the request.

        Raises:
            Problem: 429, there were too many.
        """
        if self._limits.requests is not None:
            self._take(self._limits.requests, 1, "requests")

    def reserve(self, amount: int) -> None:
        """Set aside tokens for all that the engine may compute for the request.

        Raises:
            Problem: 429, there is not enough left; 400, there never is as much.
        """
        if self._limits.tokens is not None:
            self._take(self._limits.tokens, amount, "tokens")
            self._reserved += amount

    def admit(self, requests: Sequence[Request]) -> None:
        """These sequences use what was set aside; what that lacks is set aside now.

        Raises:
            Problem: as `reserve`.
        """
        amount = most_tokens(requests)
        lacking = self._admitted + amount - self._reserved
        if lacking > 0:
            self.reserve(lacking)
        self._admitted += amount

    def release(self, requests: Sequence[Request]) -> None:
        """The engine did not take these sequences: others, or they again, may use their tokens."""
        self._admitted -= most_tokens(requests)

    def settle(self, used: int) -> None:
        """Give back what was set aside and not used. The request has ended."""
        if self._limits.tokens is not None:
            self._limits.tokens.take(used - self._reserved)
            self._reserved = 0

    def headers(self) -> dict[str, str]:
        return self._limits.headers()

    def _take(self, bucket: Bucket, amount: int, kind: str) -> None:
        if amount > bucket.per_minute:
            raise Problem(
                400,
                "over-key-limit",
                f"this API key has {bucket.per_minute} {kind} a minute, and this request may take "
                f"{amount}, more than it ever has: send less at once, or ask for fewer new tokens",
                extra={"tokens": amount, "tokens_per_minute": bucket.per_minute},
                headers=self.headers(),
            )
        wait = bucket.wait(amount)
        if wait > 0:
            seconds = math.ceil(wait)
            raise Problem(
                429,
                "rate-limit",
                f"this API key has {bucket.per_minute} {kind} a minute, and this request may take "
                f"{amount}, more than is left; try again in {seconds} s",
                headers={"Retry-After": str(seconds), **self.headers()},
            )
        bucket.take(amount)


def most_tokens(requests: Iterable[Request]) -> int:
    """Tokens of the prompts, and of the answers if none ends early."""
    return sum(
        len(request.tokens)
        + (request.want.max_new_tokens if isinstance(request.want, Generate) else 0)
        for request in requests
    )
