"""The models from scratch: as good as their cards say, and served as the README shows."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.api.native.classify import CLASSIFY_EXAMPLES
from app.api.native.generate import GENERATE_EXAMPLES
from app.api.native.instruct import INSTRUCT_EXAMPLES
from app.api.native.tokenize import DETOKENIZE_EXAMPLES, TOKENIZE_EXAMPLES
from model.checkpoint import golden, load_adapter, load_base
from model.cpu.quantize import quantize
from tests.e2e.server import SCRATCH, serve
from training.cli import main
from training.data.labelled import Reading
from training.data.labelled_parts import load_labelled
from training.measure import classifiers
from training.measure.language import text_metrics
from training.objectives import labels
from training.tuning.network import Network

ROOT = Path(__file__).resolve().parents[2]


def card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRATCH / name / "card.json").read_text())
    return content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_give_their_golden_outputs(dtype: torch.dtype) -> None:
    base = load_base(SCRATCH / "base", dtype=dtype)
    golden.verify("base", base.card["golden"], base.model, base.tokenizer)
    for name in ("spam", "instruct"):
        adapter = load_adapter(SCRATCH / name, base)
        expected = adapter.card["golden"]
        golden.verify(name, expected, base.model, base.tokenizer, adapter.head, adapter.lora)


def test_8_bit_weights_keep_the_quality(real_data: Path) -> None:
    """Perplexity within 1% of fp32, F1 of spam within half a point."""
    base, small = load_base(SCRATCH / "base"), load_base(SCRATCH / "base")
    quantize(small.model)
    golden.verify("base", small.card["golden"], small.model, small.tokenizer)
    text = (real_data / "eval" / "wikitext-2-valid.txt").read_text()[:80_000]
    tokens = np.array(base.tokenizer.encode(text))
    perplexities = [
        text_metrics(each.model, tokens, each.tokenizer)["perplexity"] for each in (base, small)
    ]
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.01)
    reading = Reading(**card("spam")["data"].get("reading", {}))
    data = load_labelled([real_data / "spam" / "SMSSpamCollection.tsv"], reading)
    f1 = []
    for each in (base, small):
        adapter = load_adapter(SCRATCH / "spam", each)
        network = Network(each.model, adapter.lora, adapter.head)
        names = labels.head_of(network).labels.names
        rows = labels.encode(data.test, names, each.tokenizer, 512)
        metrics = classifiers.measure(network, rows, each.tokenizer.end_token)
        f1.append(metrics["test_natural"]["f1"]["value"])
    assert f1[1] == pytest.approx(f1[0], abs=0.005)


def test_a_wrong_adapter_does_not_give_them() -> None:
    base = load_base(SCRATCH / "base")
    instruct = load_adapter(SCRATCH / "instruct", base)
    with pytest.raises(golden.CheckpointError, match="differs"):
        golden.verify("base", base.card["golden"], base.model, base.tokenizer, lora=instruct.lora)


def test_they_are_as_good_as_they_must_be() -> None:
    assert card("spam")["metrics"]["test_natural"]["f1"]["value"] >= 0.93
    instruct = card("instruct")["metrics"]["test"]
    assert instruct["loss"] < 0.7 * instruct["base_loss"]


@pytest.mark.parametrize("name", ["base", "spam", "instruct"])
def test_their_cards_are_complete_and_name_no_place(name: str) -> None:
    content = card(name)
    for field in ("command", "data", "metrics", "seed", "seconds", "tokens", "licences", "files"):
        assert content[field], field
    assert content["command"].startswith("penwright-train ")
    assert not re.search(r"(?<![\w.$…])/(?!instruct)\w", content["command"]), content["command"]


def test_evaluation_gives_the_numbers_of_the_card_again(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    data = real_data / "spam" / "SMSSpamCollection.tsv"
    assert main(["evaluate", str(SCRATCH / "spam"), "--data", str(data), "--json", str(out)]) == 0
    measured, expected = json.loads(out.read_text())["metrics"], card("spam")["metrics"]
    for part in ("test_natural", "test_balanced"):
        for name, entry in expected[part].items():
            value = measured[part][name]
            if name == "confusion":
                assert value == entry
            elif isinstance(entry, dict):
                # Another processor rounds otherwise; no decision changes by it.
                assert value["value"] == pytest.approx(entry["value"], abs=1e-4), name


@pytest.fixture(scope="module", params=["none", "int8", "int4"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with serve(log, "--models", SCRATCH, "--quantize", request.param) as (client, _):
        weights = {model["weights"] for model in client.get("/models").json()["models"]}
        assert weights == {{"none": "float32", "int8": "int8", "int4": "int4, int8"}[request.param]}
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (path, example["value"])
        for path, group in (
            ("/generate", GENERATE_EXAMPLES),
            ("/classify", CLASSIFY_EXAMPLES),
            ("/instruct", INSTRUCT_EXAMPLES),
            ("/tokenize", TOKENIZE_EXAMPLES),
            ("/detokenize", DETOKENIZE_EXAMPLES),
        )
        for example in group.values()
    ],
)
def test_the_examples_of_the_pages_run_as_they_stand(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    assert client.post(path, json=body).status_code == 200


def readme_calls() -> list[tuple[str, str, Any]]:
    """Path, body and answer of each `curl` line of the README that shows its whole answer."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"^\$ (curl .*?)\n(\{.*?\})$", text, re.MULTILINE | re.DOTALL)
    calls = []
    for command, answer in found:
        if answer.endswith("…}"):  # shortened: of weights that are not bundled
            continue
        words = shlex.split(command.replace("\\\n", " "))
        url = next(word for word in words if word.startswith("http") or "/" in word)
        body = next(word for word in words if word.startswith("{"))
        calls.append(("/" + url.rsplit("/", 1)[1], body, json.loads(answer)))
    return calls


def shape(value: Any) -> Any:
    """The keys and kinds of an answer, whatever its values."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_the_calls_of_the_readme_give_the_documented_shapes(client: httpx.Client) -> None:
    calls = readme_calls()
    assert [path for path, _, _ in calls] == ["/generate", "/classify", "/instruct"]
    for path, body, expected in calls:
        answer = client.post(
            path, content=body, headers={"content-type": "application/json"}
        ).json()
        assert shape(answer) == shape(expected), path
