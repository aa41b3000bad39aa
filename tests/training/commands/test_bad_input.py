"""Bad input to the commands: one line on stderr, the right exit code, nothing published."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_base, save_base

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 2, "--warmup", 0, "--batch-size", 4)


def assert_one_line(result: tuple[int, str], code: int, *parts: object) -> None:
    """The exit code, and one line on stderr, progress bars aside, with all of `parts`."""
    found, err = result
    lines = [line for line in err.splitlines() if "tok/s" not in line and line.strip()]
    assert found == code, err
    assert len(lines) == 1, err
    assert lines[0].startswith("penwright-train ")
    assert "Traceback" not in err
    for part in parts:
        assert str(part) in lines[0]


@pytest.fixture
def files(tmp_path: Path, spam_file: Path, instruction_file: Path, text_file: Path) -> Path:
    """A directory with good and bad data files."""
    (tmp_path / "spam.tsv").write_bytes(spam_file.read_bytes())
    (tmp_path / "good.json").write_bytes(instruction_file.read_bytes())
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    (tmp_path / "empty").write_text("")
    (tmp_path / "no-label.tsv").write_text(spam_file.read_text() + "\tno label\n")
    (tmp_path / "broken.json").write_text('[{"instruction": "a", "output": ')
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "file", "message"),
    [
        ("pretrain", "none.txt", "cannot be read: No such file"),
        ("pretrain", "empty", "is empty"),
        ("pretrain", "latin.txt", "not UTF-8"),
        ("tokenizer", "none.txt", "cannot be read: No such file"),
        ("tokenizer", "empty", "is empty"),
        ("classify", "none.tsv", "cannot be read: No such file"),
        ("classify", "empty", "is empty"),
        ("classify", "no-label.tsv", "line 91 has no label"),
        ("classify", "good.json", "row 1 has no label that is a string; its fields are"),
        ("instruct", "none.json", "cannot be read: No such file"),
        ("instruct", "empty", "is empty"),
        ("instruct", "broken.json", "not valid JSON"),
        ("instruct", "spam.tsv", "not valid JSON"),
        ("evaluate", "none.txt", "cannot be read: No such file"),
        ("evaluate", "empty", "is empty"),
    ],
)
def test_bad_data(
    command: str,
    file: str,
    message: str,
    files: Path,
    base_path: Path,
    tokenizer_file: Path,
    cli: Cli,
) -> None:
    data, out = files / file, files / "out"
    flags: tuple[object, ...] = ("--base", base_path, "--out", out)
    if command == "pretrain":
        flags = ("--tokenizer", tokenizer_file, "--preset", "tiny", "--out", out)
    if command == "tokenizer":
        flags = ("--out", out)
    if command == "evaluate":
        flags = (base_path,)
    assert_one_line(cli(command, *flags, "--data", data), 1, data, message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("pretrain", ("--preset", "huge"), "--preset is 'huge'; it must be one of gpt2-124m"),
        ("pretrain", ("--preset", "tiny", "--context", 100_000), "--context is 100000"),
        ("pretrain", ("--preset", "tiny", "--val-fraction", 1.5), "--val-fraction is 1.5"),
        ("pretrain", ("--context", 0), "--context is 0; it must be at least 1"),
        ("pretrain", ("--context", -1), "--context is -1; it must be at least 1"),
        ("pretrain", ("--stride", 0), "--stride is 0; it must be at least 1"),
        ("pretrain", ("--stride", -4), "--stride is -4; it must be at least 1"),
        ("pretrain", ("--tokenizer", "."), "--tokenizer ."),
        ("pretrain", ("--steps", 0, "--epochs", "inf"), "--epochs is inf"),
        ("pretrain", ("--seed", 2**64), f"--seed is {2**64}; it must be below 2^63"),
        ("classify", ("--out", "."), "--out . is or holds the working directory"),
        ("pretrain", ("--out", ".."), "--out .. is or holds the working directory"),
        ("classify", ("--lora-rank", 33), "--lora-rank is 33; it must be at most 32"),
        ("instruct", ("--lora-alpha", "nan"), "--lora-alpha is nan"),
        ("pretrain", ("--preset", "tiny", "--resume"), "--resume: "),
        ("pretrain", ("--preset", "tiny", "--warmup", 2), "--warmup is 2"),
        ("pretrain", ("--tokenizer", "none.tiktoken"), "--tokenizer none.tiktoken"),
        ("classify", ("--method", "prefix"), "--method is 'prefix'; it must be one of lora"),
        ("classify", ("--positive", "eggs"), "--positive is 'eggs'; the labels are ham, spam"),
        ("classify", ("--lora-rank", 0), "--lora-rank is 0"),
        ("classify", ("--lora-targets", "mlp"), "--lora-targets has 'mlp'"),
        ("classify", ("--class-weights", "some"), "--class-weights is 'some'"),
        ("classify", ("--method", "head", "--dropout", 0.5), "--dropout is 0.5"),
        ("classify", ("--method", "head", "--lm-weight", 0.5), "--lm-weight is 0.5"),
        ("classify", ("--lm-weight", -1), "--lm-weight is -1.0; it must be at least 0"),
        ("classify", ("--augment", "noise"), "--augment has 'noise'"),
        ("classify", ("--cache-mb", -1), "--cache-mb is -1"),
        ("classify", ("--balance", "over"), "--balance is 'over'; it must be one of none"),
        ("classify", ("--distinct", "far"), "--distinct is 'far'"),
        ("classify", ("--label-column", "text"), "are both 'text'"),
        ("classify", ("--resume",), "--resume: "),
        ("classify", ("--epochs", 0, "--steps", 0), "give exactly one of --steps"),
        ("instruct", ("--method", "head"), "--method is 'head'; it must be one of lora, full"),
        ("instruct", ("--batch-size", 0), "--batch-size is 0"),
    ],
)
def test_bad_flags(
    command: str,
    flags: tuple[object, ...],
    message: str,
    files: Path,
    base_path: Path,
    tokenizer_file: Path,
    cli: Cli,
) -> None:
    out = files / "out"
    always: tuple[object, ...] = {
        "pretrain": ("--data", files / "text.txt", "--tokenizer", tokenizer_file),
        "classify": ("--data", files / "spam.tsv", "--base", base_path),
        "instruct": ("--data", files / "good.json", "--base", base_path),
    }[command]
    assert_one_line(cli(command, *always, "--out", out, *SHORT, *flags), 2, message)
    assert not out.exists()


@pytest.mark.parametrize("command", ["pretrain", "classify", "instruct"])
def test_nothing_else_is_overwritten(
    command: str, files: Path, base_path: Path, tokenizer_file: Path, cli: Cli
) -> None:
    flags: tuple[object, ...] = ("--preset", "tiny", "--tokenizer", tokenizer_file)
    if command != "pretrain":
        flags = ("--base", base_path)
    names = sorted(os.listdir(files))
    result = cli(command, *flags, "--data", files / "text.txt", "--out", files, *SHORT)
    assert_one_line(result, 2, f"--out {files} holds files that are no checkpoint")
    assert sorted(os.listdir(files)) == names


def test_argparse_errors_have_the_code_of_usage(cli: Cli) -> None:
    assert cli("classify")[0] == 2
    assert cli("classify", "--nonsense")[0] == 2
    assert cli("cook")[0] == 2


@pytest.fixture
def altered(base_path: Path, tmp_path: Path) -> Path:
    """A copy of the base, to be damaged."""
    return Path(shutil.copytree(base_path, tmp_path / "altered"))


def test_bad_bases(altered: Path, files: Path, cli: Cli) -> None:
    def classify() -> tuple[int, str]:
        out = files / "out"
        return cli("classify", "--base", altered, "--data", files / "spam.tsv", "--out", out)

    weights = altered / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert_one_line(classify(), 1, weights, "altered or cut short")
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_one_line(classify(), 1, weights, "altered or cut short")
    weights.unlink()
    assert_one_line(classify(), 1, weights, "is missing")
    weights.write_bytes(whole)

    config = json.loads((altered / "config.json").read_text())
    (altered / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    assert_one_line(classify(), 1, altered / "config.json")
    _sign(altered)
    assert_one_line(classify(), 1, altered / "config.json", "format version 99")
    shutil.rmtree(altered)
    assert_one_line(classify(), 1, altered, "no such checkpoint")
    assert not (files / "out").exists()


def _sign(path: Path) -> None:
    """Put the present hashes of all files onto the card."""
    import hashlib

    card = json.loads((path / "card.json").read_text())
    for name in card["files"]:
        card["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "card.json").write_text(json.dumps(card))


def test_an_adapter_belongs_to_its_base_and_is_none(
    base_path: Path, altered: Path, files: Path, cli: Cli
) -> None:
    command = ("classify", "--data", files / "spam.tsv", *SHORT)
    assert cli(*command, "--base", base_path, "--out", files / "spam")[0] == 0
    result = cli(*command, "--base", files / "spam", "--out", files / "out")
    assert_one_line(result, 2, f"--base {files / 'spam'} is an adapter")
    card = json.loads((altered / "card.json").read_text())
    (altered / "card.json").write_text(json.dumps({**card, "task": "other"}))
    flags = ("--data", files / "spam.tsv")
    assert cli("evaluate", files / "spam", "--base", altered, *flags)[0] == 0  # the same weights
    base = load_base(base_path)
    torch.nn.init.ones_(base.model.embedding.weight)
    save_base(files / "other", base.model, base.tokenizer, card={})
    result = cli("evaluate", files / "spam", "--base", files / "other", *flags)
    assert_one_line(result, 1, "was trained on the base")
    result = cli("evaluate", base_path, "--base", base_path, "--data", files / "text.txt")
    assert_one_line(result, 2, "--base is for adapters")
    (files / "eggs.tsv").write_text((files / "spam.tsv").read_text().replace("ham\t", "eggs\t"))
    result = cli("evaluate", files / "spam", "--data", files / "eggs.tsv")
    assert_one_line(result, 1, "eggs.tsv", "the checkpoint knows ham, spam")


def test_evaluate_without_data_needs_metrics_on_the_card(base_path: Path, cli: Cli) -> None:
    assert_one_line(cli("evaluate", base_path), 2, "--data is missing", base_path)


@pytest.mark.parametrize("limit", [100, 2_000, 40_000])
def test_a_full_disk_leaves_the_published_checkpoint_whole(
    limit: int, base_path: Path, files: Path, cli: Cli
) -> None:
    """No file may grow beyond the limit: the operating system refuses real writes, those of the
    metrics, of the run's state or of the checkpoint."""
    out = files / "spam"
    command = ("classify", "--base", base_path, "--data", files / "spam.tsv", "--out", out)
    assert cli(*command, *SHORT, "--method", "full")[0] == 0
    before = load_base(out).id
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = cli(*command, *SHORT, "--method", "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(result, 1, "spam.run/", ": cannot be written: ")
    assert load_base(out).id == before
    assert os.listdir(files / "spam.run" / "state") == []
    assert not [name for name in os.listdir(files) if name.startswith(".")]


@pytest.mark.parametrize("path", ["", ".", "inside/deeper", ".."])
def test_the_base_is_never_the_target(path: str, altered: Path, files: Path, cli: Cli) -> None:
    """Nor what holds it: that looks like a checkpoint that may be replaced."""
    (altered.parent / "card.json").write_text("{}")
    before = sorted(altered.iterdir())
    flags = ("--base", altered, "--data", files / "spam.tsv", *SHORT, "--method", "full")
    result = cli("classify", *flags, "--out", altered / path)
    assert_one_line(result, 2, f"--out {altered / path} is, holds or lies in --base {altered}")
    assert sorted(altered.iterdir()) == before
    link = files / "link"
    link.symlink_to(altered)
    assert_one_line(cli("classify", *flags, "--out", link), 2, f"--out {link} is, holds")


NEGATIVE = json.dumps({"pattern": "x", "special_tokens": {"<|endoftext|>": -1}})


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"pattern": 5}', '{"special_tokens": {}}', NEGATIVE]
)
def test_invalid_settings_of_a_tokenizer(
    content: str, tokenizer_file: Path, files: Path, cli: Cli
) -> None:
    path = files / "own.tiktoken"
    path.write_bytes(tokenizer_file.read_bytes())
    (files / "own.tiktoken.json").write_text(content)
    flags = ("--data", files / "text.txt", "--tokenizer", path, "--out", files / "out")
    assert_one_line(cli("pretrain", *flags, *SHORT), 1, path)


def test_token_files_on_a_full_disk(tokenizer_file: Path, files: Path, cli: Cli) -> None:
    flags = ("--data", files / "text.txt", "--tokenizer", tokenizer_file, "--out", files / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        result = cli("pretrain", *flags, *SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(result, 1, files / "out.run" / "data" / "train.bin", "cannot be written: ")


def test_an_interrupt_outside_of_the_steps(
    base_path: Path, files: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, **how: object) -> None:
        raise KeyboardInterrupt  # what Python makes of SIGINT, unless that is ignored here

    monkeypatch.setattr("training.tuning.methods.load_base", interrupt)
    flags = ("--base", base_path, "--data", files / "spam.tsv", "--out", files / "out")
    assert_one_line(cli("classify", *flags), 130, "interrupted")


def test_a_checkpoint_that_cannot_be_published_leaves_the_old_one(
    base_path: Path, files: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = files / "spam"
    command = ("classify", "--base", base_path, "--data", files / "spam.tsv", "--out", out)
    assert cli(*command, *SHORT)[0] == 0
    before = (out / "card.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert_one_line(cli(*command, *SHORT), 1, out, "No space left on device")
    assert (out / "card.json").read_bytes() == before
    assert not [name for name in os.listdir(files) if name.startswith(".")]
