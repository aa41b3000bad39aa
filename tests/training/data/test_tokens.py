"""The tokens that are kept on disk are those of the text, or they are made again."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.errors import DataError
from model.tokenizer import Tokenizer
from training.data.tokens import TokenFiles, tokenize_files

Damage = Callable[[Path], object]


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def meta_of(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((path / "meta.json").read_text())
    return found


DAMAGES: dict[str, Damage] = {
    "train cut": lambda d: os.truncate(d / "train.bin", 100),
    "train emptied": lambda d: os.truncate(d / "train.bin", 0),
    "train longer": lambda d: os.truncate(d / "train.bin", 10**5),
    "train altered": lambda d: overwrite(d / "train.bin", 40, b"\1\0"),
    "val altered": lambda d: overwrite(d / "val.bin", 4, b"\1\0"),
    "val missing": lambda d: (d / "val.bin").unlink(),
    "meta missing": lambda d: (d / "meta.json").unlink(),
    "meta cut": lambda d: os.truncate(d / "meta.json", 50),
    "meta emptied": lambda d: os.truncate(d / "meta.json", 0),
    "meta no text": lambda d: (d / "meta.json").write_bytes(b"\xff\xfe\x00"),
    "meta a list": lambda d: (d / "meta.json").write_text("[1]"),
    "meta without files": lambda d: (d / "meta.json").write_text(
        json.dumps({**meta_of(d), "files": {}})
    ),
    "meta altered": lambda d: (d / "meta.json").write_text(
        json.dumps({**meta_of(d), "dtype": "uint32"})
    ),
    "meta of before": lambda d: (d / "meta.json").write_text(
        json.dumps({k: v for k, v in meta_of(d).items() if k != "files"})
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_tokens_are_made_again(
    name: str,
    tmp_path: Path,
    text_file: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    wanted = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    sources = first.sources
    del first
    assert capsys.readouterr().err == ""
    DAMAGES[name](tmp_path)
    again = tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == wanted
    assert again.sources == sources
    err = capsys.readouterr().err
    if name == "meta missing":  # as where tokenizing was cut short
        assert err == ""
    else:
        assert f"{tmp_path}/{name.split()[0]}." in err
        assert "is damaged (" in err
    tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    assert capsys.readouterr().err == ""


def test_tokens_of_another_input_are_not_damaged_ones(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    tokenize_files([text_file], tokenizer, tmp_path, 0.3)
    assert capsys.readouterr().err == ""


def test_without_the_text_nothing_is_made_again(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(text_file.read_bytes())
    tokenize_files([text], tokenizer, tmp_path / "data", 0.2)
    text.unlink()
    os.truncate(tmp_path / "data" / "train.bin", 100)
    with pytest.raises(DataError, match=r"text\.txt: cannot be read: No such file"):
        tokenize_files([text], tokenizer, tmp_path / "data", 0.2)


def test_a_resumed_run_has_the_weights_of_one_that_was_not_damaged(
    tmp_path: Path, text_file: Path, tokenizer_file: Path, cli: Callable[..., tuple[int, str]]
) -> None:
    words = ("pretrain", "--data", text_file, "--tokenizer", tokenizer_file, "--preset", "tiny")
    flags = ("--context", 32, "--batch-size", 4, "--schedule", "constant", "--device", "cpu")
    ids = []
    for name in ("whole", "damaged"):
        for steps, resume in ((2, ()), (4, ("--resume",))):
            out = ("--out", tmp_path / name, "--steps", steps, *resume)
            code, err = cli(*words, *flags, *out)
            assert code == 0, err
            if name == "damaged" and steps == 2:
                os.truncate(tmp_path / "damaged.run" / "data" / "train.bin", 100)
        ids.append((tmp_path / name / "model.safetensors").read_bytes())
    assert "train.bin: is damaged" in err
    assert ids[0] == ids[1]


def test_tokens_stay_what_they_were(tmp_path: Path, text_file: Path, tokenizer: Tokenizer) -> None:
    files = tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    assert isinstance(files.train, np.memmap)
    assert (tmp_path / "train.bin").stat().st_size == 2 * len(files.train)


def test_runs_share_the_tokens_of_the_same_files(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, copy = tmp_path / "cache", tmp_path / "copy.txt"
    copy.write_bytes(text_file.read_bytes())

    def shared(path: Path, val_fraction: float = 0.2) -> TokenFiles:
        return tokenize_files([path], tokenizer, tmp_path / "run", val_fraction, cache=cache)

    first = shared(text_file)
    [place] = cache.iterdir()
    written = (place / "train.bin").stat().st_ino
    shared(copy)
    assert (place / "train.bin").stat().st_ino == written
    shared(text_file, 0.3)
    assert len(list(cache.iterdir())) == 2
    own = tokenize_files([text_file], tokenizer, tmp_path / "own", 0.2)
    assert own.train.tobytes() == first.train.tobytes()
    assert capsys.readouterr().err == ""
    damaged = tmp_path / "damaged"
    damaged.write_bytes((place / "train.bin").read_bytes()[:100])
    os.replace(damaged, place / "train.bin")  # while the first run has the old one
    assert shared(text_file).train.tobytes() == first.train.tobytes()
    assert "train.bin: is damaged" in capsys.readouterr().err
    assert {path.name for path in place.iterdir()} == {"train.bin", "val.bin", "meta.json"}
    assert not (tmp_path / "run").exists()


def test_several_processes_fill_one_cache(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer
) -> None:
    def make(number: int) -> bytes:
        files = tokenize_files(
            [text_file], tokenizer, tmp_path / str(number), 0.2, cache=tmp_path / "cache"
        )
        return files.train.tobytes()

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(make, range(8)))
    assert len(found) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
