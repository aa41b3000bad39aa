"""Commands on cards: as another user would type them, without paths of this machine."""

import argparse
import json
from pathlib import Path

import pytest

from training.commands import import_
from training.tuning.card import portable_command


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory behind a link, beside the working directory."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "link"


@pytest.mark.parametrize("name", ["link", "real", "../link", "../real"])
def test_data_is_named_however_it_is_reached(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENWRIGHT_DATA", name if name[0] == "." else str(data.with_name(name)))
    for root in (data, data.resolve()):
        found = portable_command(["pretrain", "--data", f"{root}/text/a b.txt", f"--base={root}/b"])
        assert (
            found == "penwright-train pretrain --data $PENWRIGHT_DATA/'text/a b.txt' "
            "--base=$PENWRIGHT_DATA/b"
        )


def test_other_paths(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENWRIGHT_DATA", raising=False)
    here = Path.cwd()
    words = ["classify", "--base", f"{here}/base", "--out", "../out", "--data", f"{data}/a.tsv"]
    assert portable_command([*words, "--resume", f"--run={data}/r"]) == (
        "penwright-train classify --base base --out ../out --data '…/a.tsv' --run='…/r'"
    )


def test_the_folder_of_weights_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENWRIGHT_WEIGHTS", str(data))
    found = portable_command(["import", f"{data.resolve()}/a.gguf", "--out", "out"])
    assert found == "penwright-train import $PENWRIGHT_WEIGHTS/a.gguf --out out"


def test_import_writes_no_paths_of_this_machine(
    data: Path, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card of an import, with the conversion itself left out."""
    from model.checkpoint import load_base
    from model.convert import Imported

    base = load_base(base_path)
    imported = Imported(model=base.model, tokenizer=base.tokenizer, files={}, weights=())
    monkeypatch.setattr(import_, "read_hugging_face", lambda directory: imported)
    out = data / "out"
    flags = {"source": str(data), "out": out, "dtype": "fp32", "licence": []}
    import_.run(argparse.Namespace(**flags, base=None, task=None, leave_weights=None))
    card = json.loads((out / "card.json").read_text())
    assert card["command"] == "penwright-train import '…/link' --out '…/out' --dtype fp32"
    assert str(data.parent) not in json.dumps(card)
