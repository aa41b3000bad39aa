"""The API keys that are known: those of a file (`key_file`), and one from the environment."""

import hmac
from collections.abc import Sequence

from app.keys.key_file import KeyEntry, digest, read_entries
from app.keys.limits import Limits
from app.settings import Settings
from model.errors import UsageError

ENVIRONMENT_LABEL = "env"
"""Of the key that PENWRIGHT_API_KEY holds. It is for users, and opens no /admin."""


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
