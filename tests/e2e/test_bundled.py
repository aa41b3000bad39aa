"""The bundled models, `checkpoints/default`: they keep what their cards promise, and are served
without a word more than `penwright-serve`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.api.native.classify import CLASSIFY_EXAMPLES
from app.api.native.generate import GENERATE_EXAMPLES
from app.api.native.instruct import INSTRUCT_EXAMPLES
from app.engine.loading import bundled_models
from model.checkpoint import adapter_base_path, golden, is_adapter, load_adapter, load_base
from model.checkpoint.base import identities, identity
from model.checkpoint.model_set import load_model_set
from model.weight_files import sha256
from tests.e2e.server import serve

MODELS = load_model_set(bundled_models())
EXAMPLES = {
    "generate": GENERATE_EXAMPLES,
    "classify": CLASSIFY_EXAMPLES,
    "instruct": INSTRUCT_EXAMPLES,
}
ADAPTERS = sorted(name for name, path in MODELS.paths.items() if is_adapter(path))


def card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MODELS.paths[name] / "card.json").read_text())
    return content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_give_their_golden_outputs(dtype: torch.dtype, smollm2_file: Path) -> None:
    base = load_base(bundled_models() / "base", dtype=dtype)
    assert base.verified
    golden.verify("base", card("base")["golden"], base.model, base.tokenizer)
    for name in ADAPTERS:
        adapter = load_adapter(MODELS.paths[name], base)
        expected, template = card(name)["golden"], adapter.template
        parts = (base.model, base.tokenizer, adapter.head, adapter.lora)
        golden.verify(name, expected, *parts, template=template)


def test_they_are_served(smollm2_file: Path, tmp_path: Path) -> None:
    """And the examples of the API's pages run, of each task that has a model."""
    with serve(tmp_path / "log", "--threads", "1") as (client, _):
        models = client.get("/models").json()["models"]
        assert {model["name"] for model in models} == set(MODELS.paths)
        assert all(model["verified"] for model in models)
        for task in MODELS.tasks:
            for example in EXAMPLES[task].values():
                answer = client.post(f"/{task}", json=example["value"])
                assert answer.status_code == 200, answer.text
        asked = {"instruction": "What is the capital of Japan?", "temperature": 0, "model": "base"}
        assert "Tokyo" in client.post("/instruct", json=asked).json()["response"]


def test_their_base_is_the_file_as_it_is_fetched(smollm2_file: Path) -> None:
    """So that an adapter of the file is one of the base, and the other way round."""
    assert identity([sha256(smollm2_file)]) in identities(bundled_models() / "base")
    assert card("base")["weights_from"]["command"] == "make weights"


@pytest.mark.parametrize("name", MODELS.paths)
def test_their_cards_are_complete(name: str) -> None:
    content = card(name)
    fields = ["command", "licences", "files", "golden"]
    if name in ADAPTERS:
        fields += ["data", "metrics", "seed", "seconds", "tokens"]
    for field in fields:
        assert content[field], field
    assert content["command"].startswith("penwright-train ")


@pytest.mark.parametrize("name", ADAPTERS or [None])
def test_adapters_are_of_the_bundled_base(name: str | None) -> None:
    if name is None:
        pytest.skip("there are no adapters among the bundled models")
    assert adapter_base_path(MODELS.paths[name]) == bundled_models() / "base"
    settings = json.loads((MODELS.paths[name] / "adapter.json").read_text())
    assert settings["base"]["sha256"] in identities(bundled_models() / "base")
