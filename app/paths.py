"""Paths of requests, with and without the prefix under which the service is reached."""

import re
from collections.abc import Mapping
from typing import Any

MOST_PREFIX = 200
"""Characters of a prefix."""
_PREFIX = re.compile(r"(/[A-Za-z0-9._~@:+=-]+)*/?")


def path_prefix(text: str) -> str:
    """A prefix as `root_path` has it: without a slash at its end, and empty for `/`.

    What it consists of needs no quoting, in an address or in HTML, and names no other host.

    Raises:
        ValueError: it is something else.
    """
    dots = {".", ".."} & set(text.split("/"))
    if len(text) > MOST_PREFIX or dots or not _PREFIX.fullmatch(text):
        raise ValueError(
            f"must be a path like /models, of at most {MOST_PREFIX} characters: letters, digits "
            "and . _ ~ @ : + = - between single slashes, the first of which begins it; no . or .. "
            "alone"
        )
    return text.rstrip("/")


def route_path(scope: Mapping[str, Any]) -> str:
    """What is compared with the paths of routes: the path below the prefix.

    Who may call is decided by it, so it is the same as Starlette's router takes; a test compares
    them.
    """
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


def outer_prefix(scope: Mapping[str, Any]) -> str:
    """The prefix of the whole service, also where an app inside of it has a part of its paths."""
    prefix: str = scope.get("app_root_path", scope.get("root_path", ""))
    return prefix.rstrip("/")
