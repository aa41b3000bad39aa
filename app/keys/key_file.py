"""The API keys that are known: those of a file, and one from the environment.

    [{"label": "shop", "sha256": "…", "requests_per_minute": 600, "tokens_per_minute": 100000},
     {"label": "ops", "sha256": "…", "admin": true, "expires": "2027-01-01T00:00:00Z"}]

`penwright-keys` writes it (`app.keys.cli`). A key is 256 random bits, so its SHA-256 says
nothing of it, and a slow hash, which protects what people think up, would only cost time.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.keys.limits import Limits
from app.settings import Settings
from model.checkpoint.atomic import make_parent, writing
from model.engine.request import HIGHEST_PRIORITY
from model.errors import UsageError

MOST_KEYS = 1000
ENVIRONMENT_LABEL = "env"
"""Of the key that PENWRIGHT_API_KEY holds. It is for users, and opens no /admin."""
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Limit = Annotated[int, Field(ge=1, le=1_000_000_000)]


class KeyEntry(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: Label
    """Its name in logs and metrics."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """Of the whole key, in hexadecimal digits."""
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    """Of prompts and answers together."""
    max_priority: Annotated[int, Field(ge=0, le=HIGHEST_PRIORITY)] = 0
    """The most urgent that its requests may be."""
    admin: bool = False
    """Whether it opens /admin too."""
    expires: AwareDatetime | None = None

    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires


_ENTRIES = TypeAdapter(Annotated[list[KeyEntry], Field(max_length=MOST_KEYS)])


def new_key() -> str:
    """A key that nobody can guess; the beginning is for those who search for lost ones."""
    return f"pw-{secrets.token_urlsafe(32)}"


def digest(key: str | bytes) -> str:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


class Key:
    """A key that is known, and what is left of its allowance."""

    def __init__(self, entry: KeyEntry) -> None:
        self.entry = entry
        self.limits = Limits(entry.requests_per_minute, entry.tokens_per_minute)

    @property
    def label(self) -> str:
        return self.entry.label


class Keys:
    """All keys that are known at the moment.

    Args:
        entries: None if no keys are used, so that none is needed.
        previous: the keys before these: who has the same key and limits keeps what is left.
    """

    def __init__(self, entries: Sequence[KeyEntry] | None, previous: "Keys | None" = None) -> None:
        self.required = entries is not None
        known = {} if previous is None else {key.entry.sha256: key for key in previous._keys}
        self._keys: list[Key] = [Key(entry) for entry in entries or ()]
        for key in self._keys:
            old = known.get(key.entry.sha256)
            if old is not None and old.limits.same(key.limits):
                key.limits = old.limits

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: bytes) -> Key | None:
        """The key that `given` is. Takes the same time whichever it is, or none."""
        sha256 = digest(given)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.entry.sha256, sha256):
                found = key
        return found


def load_keys(settings: Settings, previous: Keys | None = None) -> Keys:
    """The keys that `settings` name; the file is read now.

    A file without keys lets nobody in: it shows that keys are meant to be needed.

    Raises:
        UsageError: the file cannot be used; the environment's key is in it, under another label.
    """
    entries: list[KeyEntry] = []
    if settings.api_keys is not None:
        entries += read_entries(settings.api_keys)
    if settings.api_key is not None:
        secret = digest(settings.api_key.get_secret_value())
        if any(entry.label == ENVIRONMENT_LABEL for entry in entries):
            raise UsageError(
                f"{settings.api_keys}: the label {ENVIRONMENT_LABEL!r} is that of PENWRIGHT_API_KEY"
            )
        if any(entry.sha256 == secret for entry in entries):
            raise UsageError(f"{settings.api_keys}: holds the key of PENWRIGHT_API_KEY, too")
        entries.append(KeyEntry(label=ENVIRONMENT_LABEL, sha256=secret))
    used = settings.api_keys is not None or settings.api_key is not None
    return Keys(entries if used else None, previous)


def read_entries(path: Path) -> list[KeyEntry]:
    """The keys of a file.

    Raises:
        UsageError: it cannot be read or is none; names the file and the entry, never a value, which
            might be a key.
    """
    try:
        entries = _ENTRIES.validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error)}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not JSON; it must be a list of keys") from None
    for name in ("label", "sha256"):
        _check_unique(path, name, [getattr(entry, name) for entry in entries])
    return entries


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Inside, no other program changes the file of keys: what was read is still so when it is
    written. Others wait. On Windows there is no such lock, and nobody waits.

    The lock is a file of its own, which stays: the file of keys is another one after each change.

    Raises:
        PenwrightError: the lock cannot be made; names it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = path.with_name(f".{path.name}.lock")
    with writing(lock):
        make_parent(lock)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with writing(lock):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _explain(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    if not first["loc"]:
        return f"must be a list of keys: {first['msg']}"
    place = f"key {first['loc'][0]}"
    field = "".join(f", {part}" for part in first["loc"][1:2])
    return f"{place}{field}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _check_unique(path: Path, name: str, values: Sequence[str]) -> None:
    for number, value in enumerate(values):
        first = values.index(value)
        if first < number:
            raise UsageError(f"{path}: keys {first} and {number} have the same {name}")


def dump_entries(entries: Sequence[KeyEntry]) -> bytes:
    """The content of a file of keys, one a line, so that two versions compare well."""
    objects: list[dict[str, Any]] = [
        entry.model_dump(mode="json", exclude_defaults=True) for entry in entries
    ]
    lines = ",\n ".join(json.dumps(entry) for entry in objects)
    return f"[{lines}]\n".encode()
