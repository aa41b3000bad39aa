"""The file of API keys, its program, and the limits of a key."""

import concurrent.futures
import contextlib
import json
import stat
import threading
from pathlib import Path

import pytest

from app.errors import Problem
from app.keys import cli as keys_cli
from app.keys.key_file import KeyEntry, Keys, digest, dump_entries, load_keys, read_entries
from app.keys.limits import Allowance, Bucket, Limits
from app.settings import Settings, load_settings
from model.engine.request import Generate, Request
from model.errors import UsageError

SECRET = "a-secret-that-nobody-knows"


class Clock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(*arguments: str) -> int:
    return keys_cli.main(list(arguments))


# ---- the program ----


def test_a_key_is_printed_once_and_its_hash_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    flags = ["--requests-per-minute", "60", "--max-priority", "5", "--admin"]
    assert run("add", str(file), "shop", *flags) == 0
    key = capsys.readouterr().out.strip()
    assert len(key) >= 43  # 32 bytes in base64
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("add", str(file), "till", "--tokens-per-minute", "500", "--days", "30") == 0
    second = capsys.readouterr().out.strip()
    assert second != key
    found = Keys(read_entries(file)).find(key.encode())
    assert found is not None
    assert (found.label, found.entry.admin, found.entry.requests_per_minute) == ("shop", True, 60)
    assert found.entry.max_priority == 5
    assert run("list", str(file)) == 0
    shown = capsys.readouterr().out
    assert "shop  60 requests a minute  priority up to 5  admin" in shown
    assert "till  500 tokens a minute  expires " in shown
    assert key not in shown
    assert digest(key) not in shown
    assert run("remove", str(file), "shop") == 0
    assert Keys(read_entries(file)).find(key.encode()) is None
    assert Keys(read_entries(file)).find(second.encode()) is not None
    assert set(tmp_path.iterdir()) == {file, tmp_path / ".keys.json.lock"}


def at_once(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of `commands`, of which each has read the file before another can write it,
    where nothing keeps them apart."""
    together = threading.Barrier(len(commands))

    def read(path: Path) -> list[KeyEntry]:
        entries = read_entries(path)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(1.0)  # in vain, where the others wait for this one
        return entries

    monkeypatch.setattr(keys_cli, "read_entries", read)
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(keys_cli.main, commands))


def test_keys_that_are_added_at_once_are_all_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(dump_entries([]))
    labels = [f"k{number}" for number in range(6)]
    assert at_once([["add", str(file), label] for label in labels], monkeypatch) == [0] * 6
    printed = capsys.readouterr().out.split()
    keys = Keys(read_entries(file))
    found = [keys.find(key.encode()) for key in printed]
    assert sorted(key.label for key in found if key is not None) == labels


def test_a_key_that_is_removed_while_another_is_added_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(dump_entries([KeyEntry(label="old", sha256=digest(SECRET))]))
    commands = [["remove", str(file), "old"], ["add", str(file), "new"]]
    assert at_once(commands, monkeypatch) == [0, 0]
    assert [entry.label for entry in read_entries(file)] == ["new"]


def test_only_one_of_two_keys_of_one_label_is_added_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(dump_entries([]))
    assert sorted(at_once([["add", str(file), "shop"]] * 2, monkeypatch)) == [0, 2]
    shown = capsys.readouterr()
    assert "has a key 'shop' already" in shown.err
    [printed] = shown.out.split()
    assert Keys(read_entries(file)).find(printed.encode()) is not None


def test_a_lock_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, lock = tmp_path / "keys.json", tmp_path / ".keys.json.lock"
    lock.mkdir()
    assert run("add", str(file), "shop") == 1
    shown = capsys.readouterr()
    assert f"{lock}: cannot be written: Is a directory" in shown.err
    assert shown.out == ""
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["add", "FILE", "shop"], "has a key 'shop' already"),
        (["add", "FILE", "two words"], "LABEL is 'two words'"),
        (["add", "FILE", "till", "--requests-per-minute", "0"], "--requests-per-minute is 0"),
        (["add", "FILE", "till", "--max-priority", "10"], "--max-priority is 10"),
        (["add", "FILE", "till", "--days", "0"], "--days is 0"),
        (["remove", "FILE", "till"], "no key 'till'; there are: shop"),
        (["list", "FILE.not"], "cannot be read: No such file"),
    ],
)
def test_the_program_says_what_is_wrong(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(dump_entries([KeyEntry(label="shop", sha256=digest(SECRET))]))
    before = file.read_bytes()
    assert run(*(argument.replace("FILE", str(file)) for argument in arguments)) == 2
    assert part in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"shop": "x"}', "must be a list of keys"),
        (json.dumps([{"label": "shop", "sha256": SECRET}]), "key 0, sha256: "),
        (json.dumps([{"label": "shop", "key": SECRET}]), "key 0, sha256: field required"),
        (json.dumps([{"label": "shop", "sha256": "0" * 64, "key": SECRET}]), "key 0, key: "),
        (
            json.dumps([{"label": "a", "sha256": "0" * 64, "expires": "2030-01-01T00:00:00"}]),
            "key 0, expires: ",
        ),
        (json.dumps([{"label": "a", "sha256": "0" * 64}] * 2), "keys 0 and 1 have the same label"),
        (
            json.dumps([{"label": label, "sha256": "0" * 64} for label in ("a", "b")]),
            "keys 0 and 1 have the same sha256",
        ),
        (json.dumps([{"label": "env", "sha256": "0" * 64}]), "is that of PENWRIGHT_API_KEY"),
        (json.dumps([{"label": "a", "sha256": digest(SECRET)}]), "the key of PENWRIGHT_API_KEY"),
    ],
)
def test_a_wrong_file_is_refused_and_never_quoted(content: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_keys(Settings(api_keys=file, api_key=SECRET))
    assert part in str(caught.value)
    assert str(file) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("[]")
    assert load_keys(Settings(api_keys=file)).required
    assert not load_keys(Settings()).required


def test_the_key_of_the_environment_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENWRIGHT_API_KEY", SECRET)
    settings = load_settings()
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    key = load_keys(settings).find(SECRET.encode())
    assert key is not None
    assert (key.label, key.entry.admin) == ("env", False)
    for wrong in ("short-s3cret", "a secret that has some spaces", "ein-ganz-großes-Geheimnis"):
        monkeypatch.setenv("PENWRIGHT_API_KEY", wrong)
        with pytest.raises(UsageError, match="PENWRIGHT_API_KEY must be at least 16") as caught:
            load_settings()
        assert wrong not in str(caught.value)


# ---- limits ----


def test_a_bucket_fills_up_in_a_minute_and_says_how_long_to_wait() -> None:
    clock = Clock()
    bucket = Bucket(6, clock)
    for _ in range(6):
        assert bucket.wait(1) == 0
        bucket.take(1)
    assert bucket.wait(1) == pytest.approx(10)
    clock.now += 4
    assert bucket.wait(1) == pytest.approx(6)
    clock.now += 6
    assert bucket.wait(1) == 0
    clock.now += 3600
    assert bucket.level() == 6


def test_after_retry_after_a_request_is_taken_and_not_a_second_before() -> None:
    clock = Clock()
    allowance = Allowance(Limits(7, None, clock))
    for _ in range(7):
        allowance.begin()
    with pytest.raises(Problem) as caught:
        allowance.begin()
    headers = caught.value.headers or {}
    seconds = int(headers["Retry-After"])
    assert seconds == 9  # 60 / 7, rounded up
    assert headers["X-RateLimit-Limit-Requests"] == "7"
    assert headers["X-RateLimit-Remaining-Requests"] == "0"
    assert headers["X-RateLimit-Reset-Requests"] == "60s"
    clock.now += seconds - 1
    with pytest.raises(Problem):
        allowance.begin()
    clock.now += 1
    allowance.begin()


def sequence(prompt: int, new: int) -> Request:
    return Request("a", (1,) * prompt, Generate(max_new_tokens=new))


def test_tokens_are_set_aside_before_and_given_back_after() -> None:
    clock = Clock()
    limits = Limits(None, 100, clock)
    first, second = Allowance(limits), Allowance(limits)
    first.admit([sequence(10, 40)])
    second.admit([sequence(5, 5)] * 3)
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "20"
    with pytest.raises(Problem) as caught:
        second.admit([sequence(10, 20)])
    assert caught.value.status_code == 429
    assert (caught.value.headers or {})["Retry-After"] == "6"  # ten tokens are missing
    first.settle(12)
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "58"
    second.settle(30)
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "58"


def test_what_is_more_than_a_minute_holds_is_refused_for_good_and_takes_nothing() -> None:
    limits = Limits(None, 60, Clock())
    with pytest.raises(Problem) as caught:
        Allowance(limits).admit([sequence(10, 20), sequence(10, 21)])
    assert caught.value.status_code == 400
    assert "60 tokens a minute, and this request may take 61" in caught.value.detail
    assert caught.value.extra == {"tokens": 61, "tokens_per_minute": 60}
    assert "Retry-After" not in (caught.value.headers or {})
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "60"
    Allowance(limits).admit([sequence(10, 20), sequence(10, 20)])
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "0"


def test_parts_use_what_was_set_aside_for_the_whole() -> None:
    limits = Limits(None, 100, Clock())
    whole, other = Allowance(limits), Allowance(limits)
    whole.reserve(80)
    other.admit([sequence(20, 0)])
    part = [sequence(20, 0), sequence(20, 0)]
    whole.admit(part)
    whole.release(part)  # the engine had no room, and is asked again
    whole.admit(part)
    whole.admit(part)
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "0"
    whole.settle(40)
    assert limits.headers()["X-RateLimit-Remaining-Tokens"] == "40"


def test_read_again_a_key_keeps_what_is_left_unless_its_limits_changed() -> None:
    entry = KeyEntry(label="shop", sha256=digest(SECRET), requests_per_minute=2)
    old = Keys([entry])
    key = old.find(SECRET.encode())
    assert key is not None
    Allowance(key.limits).begin()
    for changed, left in ((entry, "1"), (entry.model_copy(update={"requests_per_minute": 9}), "9")):
        again = Keys([changed], old).find(SECRET.encode())
        assert again is not None
        assert again.limits.headers()["X-RateLimit-Remaining-Requests"] == left
