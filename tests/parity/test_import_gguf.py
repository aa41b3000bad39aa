"""`penwright-train import` of a GGUF file keeps it, and raw or imported it is one base."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import (
    Base,
    adapter_base_path,
    golden,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
)
from model.errors import CheckpointError
from model.lora import LoRA, LoRASettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from tests.e2e.server import SCRATCH
from training.cli import main


@pytest.fixture
def imported(raw_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Base:
    assert main(["import", str(raw_gguf), "--out", str(tmp_path / "imported")]) == 0
    assert "tied head, as it was" in capsys.readouterr().out
    return load_base(tmp_path / "imported")


def new_adapter(out: Path, base: Base) -> None:
    lora = LoRA(base.config, LoRASettings(rank=2))
    lora.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for b in lora.b.values():
            b.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    save_adapter(out, base, task="instruct", lora=lora.eval(), head=None, card={})


def test_the_file_is_kept_to_the_byte(raw_gguf: Path, imported: Base) -> None:
    assert (imported.path / "model.gguf").read_bytes() == raw_gguf.read_bytes()
    assert not (imported.path / "model.safetensors").exists()
    config = json.loads((imported.path / "config.json").read_text())
    assert config["format_version"] == 2
    assert config["weights"] == "model.gguf"
    source = imported.card["source"]
    assert source["files"] == {raw_gguf.name: hashlib.sha256(raw_gguf.read_bytes()).hexdigest()}


def test_it_computes_the_same_and_is_verified(raw_gguf: Path, imported: Base) -> None:
    plain = load_base(raw_gguf)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, imported.model.state_dict()[name]), name
    assert imported.verified
    assert not plain.verified
    assert plain.id == plain.weights
    assert golden.verify("x", imported.card["golden"], plain.model, plain.tokenizer) < 1e-5


def test_raw_and_imported_are_one_base(raw_gguf: Path, imported: Base, tmp_path: Path) -> None:
    """An adapter of one is an adapter of the other; the card plays no part."""
    plain = load_base(raw_gguf)
    one_hash = hashlib.sha256(raw_gguf.read_bytes()).hexdigest()
    assert plain.weights == imported.weights == hashlib.sha256(one_hash.encode()).hexdigest()
    new_adapter(tmp_path / "of-raw", plain)
    new_adapter(tmp_path / "of-imported", imported)
    assert adapter_base_path(tmp_path / "of-raw") == raw_gguf.resolve()
    for name, base in (("of-raw", imported), ("of-imported", plain)):
        adapter = load_adapter(tmp_path / name, base)
        outputs = adapter.card["golden"]
        golden.verify(name, outputs, base.model, base.tokenizer, None, adapter.lora)


def test_another_tokenizer_shows_in_the_golden_outputs(
    raw_gguf: Path, imported: Base, tmp_path: Path
) -> None:
    new_adapter(tmp_path / "spam", imported)
    adapter = load_adapter(tmp_path / "spam", imported)
    other = Tokenizer({bytes([i]): 255 - i for i in range(256)}, PATTERN, {END_OF_TEXT: 256})
    with pytest.raises(CheckpointError, match="differs from its card's"):
        golden.verify("spam", adapter.card["golden"], imported.model, other, None, adapter.lora)


def test_other_weights_are_another_base(imported: Base, tmp_path: Path) -> None:
    new_adapter(tmp_path / "spam", imported)
    with torch.no_grad():
        imported.model.norm.weight += 1
    other = save_base(tmp_path / "other", imported.model, imported.tokenizer, card={})
    with pytest.raises(CheckpointError, match="was trained on the base"):
        load_adapter(tmp_path / "spam", other)


def test_a_changed_byte_is_refused(imported: Base) -> None:
    path = imported.path / "model.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(CheckpointError, match=r"model\.gguf: its SHA-256"):
        load_base(imported.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["architecture"].update(n_head=4, n_kv_head=4, head_dim=8), "another architec"),
        (lambda c: c.update(weights="model.safetensors"), r"model\.safetensors"),
    ],
)
def test_a_configuration_that_is_not_the_files(imported: Base, change: Any, said: str) -> None:
    path = imported.path / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    card = json.loads((imported.path / "card.json").read_text())
    card["files"]["config.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (imported.path / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=said):
        load_base(imported.path)


def test_it_has_no_type_to_choose(
    raw_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", str(raw_gguf), "--out", str(tmp_path / "out"), "--dtype", "bf16"]
    assert main(command) == 2
    assert "--dtype is bf16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_format_1_adapters_know_their_base_by_its_card(tmp_path: Path) -> None:
    """Those from scratch do; a card with another hash is another base to them."""
    base = load_base(SCRATCH / "base")
    stored = json.loads((SCRATCH / "spam" / "adapter.json").read_text())
    assert stored["base"]["sha256"] == base.id != base.weights
    load_adapter(SCRATCH / "spam", base)
    with pytest.raises(CheckpointError, match="was trained on the base"):
        load_adapter(SCRATCH / "spam", replace(base, id="0" * 64))
