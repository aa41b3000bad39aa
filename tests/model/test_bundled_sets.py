"""An adapter whose base is not where it says finds it by its hash: beside itself, or among those
that come with Penwright."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import (
    Base,
    adapter_base_path,
    bundled,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
)
from model.errors import CheckpointError
from model.lora import LoRA, LoRASettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tests.e2e.server import SCRATCH


def new_base(path: Path, config: Architecture, tokenizer: Tokenizer, seed: int) -> Base:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return save_base(path, model, tokenizer, card={"seed": seed})


def new_adapter(path: Path, base: Base) -> Path:
    lora = LoRA(base.config, LoRASettings(rank=2))
    lora.init_weights(torch.Generator().manual_seed(0))
    save_adapter(path, base, task="instruct", lora=lora.eval(), head=None, card={})
    return path


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of bundled sets; one of them has a base."""
    place = tmp_path / "bundled"
    monkeypatch.setattr(bundled, "_PLACES", (tmp_path / "nowhere", place))
    return place


@pytest.fixture
def base(sets: Path, config: Architecture, tokenizer: Tokenizer) -> Base:
    base = new_base(sets / "old" / "base", config, tokenizer, 1)
    (sets / "old" / "models.json").write_text('{"format_version": 1, "generate": "base"}')
    return base


@pytest.fixture
def moved(base: Base, tmp_path: Path) -> Path:
    """An adapter of the bundled base, whose path leads nowhere any more."""
    adapter = new_adapter(base.path.parent / "own", base)
    (tmp_path / "elsewhere").mkdir()
    return Path(shutil.move(adapter, tmp_path / "elsewhere" / "own"))


def test_a_base_that_has_gone(moved: Path, base: Base) -> None:
    found = adapter_base_path(moved)
    assert found == base.path
    load_adapter(moved, load_base(found))


def test_another_base_in_its_place(
    moved: Path, base: Base, config: Architecture, tokenizer: Tokenizer
) -> None:
    other = new_base(moved.parent / "base", config, tokenizer, 2)
    assert adapter_base_path(moved) == base.path
    with pytest.raises(CheckpointError, match="was trained on the base"):
        load_adapter(moved, load_base(other.path))


def test_the_base_that_is_named_comes_first(moved: Path, base: Base) -> None:
    shutil.copytree(base.path, moved.parent / "base")
    assert adapter_base_path(moved) == moved.parent / "base"


def test_its_own_set_comes_before_those_that_are_bundled(moved: Path, base: Base) -> None:
    shutil.copytree(base.path, moved.parent / "renamed")
    assert adapter_base_path(moved) == moved.parent / "renamed"


def test_a_base_that_nobody_has(
    moved: Path, sets: Path, config: Architecture, tokenizer: Tokenizer
) -> None:
    """Then what the adapter names is refused, as it ever was."""
    shutil.rmtree(sets)
    assert adapter_base_path(moved) == moved.parent / "base"
    with pytest.raises(CheckpointError, match="no such checkpoint directory"):
        load_base(adapter_base_path(moved))
    new_base(moved.parent / "base", config, tokenizer, 2)
    assert adapter_base_path(moved) == moved.parent / "base"


@pytest.mark.parametrize("damage", ["{", "[]", '{"files": []}', '{"files": {}}'])
def test_a_damaged_card_among_them_is_passed_over(moved: Path, base: Base, damage: str) -> None:
    shutil.copytree(base.path, base.path.parent / "a")
    (base.path.parent / "a" / "card.json").write_text(damage)
    assert adapter_base_path(moved) == base.path


@pytest.mark.parametrize("name", ["spam", "instruct"])
def test_adapters_of_the_base_that_was_bundled_before(name: str, tmp_path: Path) -> None:
    """They are of format 1, which knows a base by its card."""
    adapter = tmp_path / name
    shutil.copytree(SCRATCH / name, adapter)
    stored = json.loads((adapter / "adapter.json").read_text())
    assert stored["base"]["path"] == "../base"
    assert adapter_base_path(adapter) == SCRATCH / "base"
    load_adapter(adapter, load_base(SCRATCH / "base"))
