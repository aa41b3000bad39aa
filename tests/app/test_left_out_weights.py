"""A model set whose weights lie in the folder of weights, served and loaded again."""

import json
import shutil
from pathlib import Path

import pytest

from app.keys.key_file import KeyEntry, digest, dump_entries
from model.checkpoint import load_base
from model.checkpoint.weights_folder import VARIABLE
from model.convert.gguf_write import write_gguf
from training.cli import main

from .conftest import serve

ADMIN = "pw-admin-0123456789"


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf", load_base(checkpoints / "base"), "fp32")
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def models(checkpoints: Path, folder: Path, tmp_path: Path) -> Path:
    """A set with one base, whose directory has no weights."""
    models = tmp_path / "models"
    command = ["import", str(folder / "tiny.gguf"), "--leave-weights", "make tiny"]
    assert main([*command, "--out", str(models / "base")]) == 0
    values = {"format_version": 1, "generate": "base"}
    (models / "models.json").write_text(json.dumps(values))
    return models


def test_its_answers_are_verified(models: Path, checkpoints: Path) -> None:
    body = {"prompt": "The old man", "max_new_tokens": 12, "temperature": 0}
    with serve(models=models) as live:
        [model] = live.client.get("/models").json()["models"]
        assert model["verified"] is True
        card = json.loads((models / "base" / "card.json").read_text())
        assert model["sha256"] == card["files"]["tiny.gguf"]
        [found] = live.client.post("/generate", json=body).json()["choices"]
    with serve(models=checkpoints) as live:
        [wanted] = live.client.post("/generate", json=body).json()["choices"]
    assert found["text"] == wanted["text"]


def test_a_reload_looks_at_the_weights_again(models: Path, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(dump_entries([KeyEntry(label="k", sha256=digest(ADMIN), admin=True)]))
    with serve(models=models, api_keys=keys) as live:
        live.client.headers["Authorization"] = f"Bearer {ADMIN}"

        def reload() -> tuple[int, str]:
            answer = live.client.post("/admin/reload", timeout=60)
            return answer.status_code, answer.text

        assert reload()[0] == 200
        weights = folder / "tiny.gguf"
        kept = shutil.move(weights, tmp_path / "kept")
        code, said = reload()
        assert code == 409
        assert "tiny.gguf, are neither there nor in" in said
        assert "make tiny" in said
        weights.write_bytes(Path(kept).read_bytes()[:-4] + b"\0\1\2\3")
        code, said = reload()
        assert code == 409
        assert "SHA-256" in said
        assert live.client.post("/generate", json={"prompt": "a"}).status_code == 200
        weights.unlink()
        shutil.move(kept, weights)
        assert reload()[0] == 200


def test_without_the_weights_the_process_says_what_brings_them(models: Path, folder: Path) -> None:
    (folder / "tiny.gguf").unlink()
    with serve(models=models, ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        assert "`make tiny` brings it" in str(live.service.failure)
