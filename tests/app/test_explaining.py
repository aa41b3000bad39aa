"""/classify: why a text has its label, and when the answer is that it is not clear."""

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.engine.client import EngineClient
from app.engine.events import SequenceEvents
from app.engine.loading import ServedModel
from app.errors import queue_full
from app.keys.key_file import KeyEntry, digest, dump_entries
from app.settings import load_settings
from model.checkpoint import load_base, save_adapter
from model.classifier import ClassifierHead, Labels
from model.engine.engine import Engine
from model.engine.intake import QueueFull
from model.engine.request import Request
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from tests.app.conftest import Live, serve

TEXT = "The old man said: “né!” 🎉"


def explained(client: httpx.Client, text: str | list[str], **more: Any) -> list[dict[str, Any]]:
    response = client.post("/classify", json={"text": text, "explain": True, **more})
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


@torch.no_grad()
def log_odds(model: ServedModel, tokens: list[int], of: str) -> float:
    """By a plain forward pass of the adapter's fp32 network."""
    assert model.adapter is not None
    assert model.adapter.head is not None
    hidden = model.base.model(torch.tensor([tokens]), adapters=model.adapter.lora)
    logits = model.adapter.head.calibrated(hidden[0, -1:])[0].double()
    index = model.adapter.head.labels.names.index(of)
    others = torch.cat([logits[:index], logits[index + 1 :]])
    return float(logits[index] - torch.logsumexp(others, 0))


@pytest.fixture(scope="module")
def plain(checkpoints: Path) -> Iterator[Live]:
    """In fp32, and with small bounds."""
    topic: dict[str, Any] = {"base": checkpoints / "base", "classify": checkpoints / "topic"}
    bounds: dict[str, Any] = {
        "slots": 3,
        "max_waiting": 6,
        "max_batch": 4,
        "max_explain_tokens": 60,
    }
    with serve(**topic, **bounds, quantize="none", unsure_band=(0.0, 0.36)) as live:
        yield live


@pytest.mark.parametrize("name", ["spam", "topic"])
@pytest.mark.parametrize("text", [TEXT, "a", "the sea " * 12])
def test_contributions_add_up(live: Live, plain: Live, name: str, text: str) -> None:
    client = live.client if name == "spam" else plain.client
    [result] = explained(client, text, unsure_band=[])
    found = result["attributions"]
    contributions = [token["contribution"] for token in found["tokens"]]
    assert len(contributions) == result["tokens"]
    assert sum(contributions) == pytest.approx(found["log_odds"] - found["baseline"], abs=1e-3)
    assert "".join(token["text"] for token in found["tokens"]) == text
    probability = result["probabilities"][found["of"]]
    assert found["log_odds"] == pytest.approx(math.log(probability / (1 - probability)), abs=1e-3)
    assert found["of"] == ("spam" if name == "spam" else result["label"])
    assert len(set(contributions)) > len(contributions) / 2 or len(contributions) == 1


def test_contributions_are_those_of_the_definition(plain: Live) -> None:
    model = plain.service.model("classify", None)
    end = model.base.tokenizer.end_token
    for text in (TEXT, "a girl and the sea"):
        [result] = explained(plain.client, text, unsure_band=[])
        found = result["attributions"]
        tokens = [token["token"] for token in found["tokens"]]
        assert tokens == model.base.tokenizer.encode(text)

        def odds(part: list[int], of: str = found["of"]) -> float:
            return log_odds(model, part or [end], of)

        assert found["baseline"] == pytest.approx(odds([]), abs=1e-4)
        assert found["log_odds"] == pytest.approx(odds(tokens), abs=1e-4)
        for i, token in enumerate(found["tokens"]):
            forwards = odds(tokens[: i + 1]) - odds(tokens[:i])
            backwards = odds(tokens[i:]) - odds(tokens[i + 1 :])
            assert token["contribution"] == pytest.approx((forwards + backwards) / 2, abs=2e-4)


def test_several_texts_and_none_explained(client: httpx.Client) -> None:
    texts = [TEXT, "a girl", TEXT]
    first, second, third = explained(client, texts)
    for key, value in first["attributions"].items():
        if key == "tokens":
            for token, same in zip(value, third["attributions"][key], strict=True):
                assert token == pytest.approx(same)
        else:
            assert value == pytest.approx(third["attributions"][key])
    assert len(second["attributions"]["tokens"]) == second["tokens"]
    plain = client.post("/classify", json={"text": texts}).json()
    assert [result["attributions"] for result in plain["results"]] == [None] * 3
    for result, other in zip((first, second, third), plain["results"], strict=True):
        assert result["label"] == other["label"]
        assert result["score"] == pytest.approx(other["score"], abs=1e-6)
    assert plain["usage"]["prompt_tokens"] == sum(r["tokens"] for r in (first, second, third))


def test_a_text_that_was_cut_is_explained_as_it_was_read(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text('{"format_version": 1, "classify": "whole"}')
    (tmp_path / "whole").symlink_to(checkpoints / "whole")
    text = "the girl said " * 40
    with serve(models=tmp_path) as live:
        [result] = explained(live.client, text, truncate=True)
        assert result["truncated"]
        read = "".join(token["text"] for token in result["attributions"]["tokens"])
        assert len(result["attributions"]["tokens"]) == result["tokens"] == 128
        assert text.startswith(read)


def test_a_text_too_long_to_explain_is_refused_with_the_numbers(plain: Live) -> None:
    sent = {"text": ["a", "+" * 61], "explain": True}
    response = plain.client.post("/classify", json=sent)
    assert response.status_code == 400
    problem = response.json()
    assert "text 1 has 61 tokens to explain; at most 60" in problem["detail"]
    assert (problem["text_tokens"], problem["max_explain_tokens"]) == (61, 60)
    [result] = explained(plain.client, "+" * 60)
    assert len(result["attributions"]["tokens"]) == 60
    assert plain.client.post("/classify", json={"text": "+" * 61}).status_code == 200


def test_it_leaves_room_in_the_queue(plain: Live) -> None:
    """With room for nine sequences, an explanation of 119 takes four at a time."""
    most = 0
    with_room = threading.Event()

    def watch() -> None:
        nonlocal most
        while not with_room.is_set():
            most = max(most, plain.running() + plain.waiting())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    explained(plain.client, "+" * 60)
    with_room.set()
    watcher.join()
    assert 1 <= most <= 4


def test_a_queue_that_fills_up_meanwhile_is_waited_for(
    plain: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = explained(plain.client, TEXT)
    opened, full = EngineClient.submit, {3, 4, 5, 9}
    calls = 0

    def open_or_refuse(
        self: EngineClient, requests: Sequence[Request], **more: Any
    ) -> SequenceEvents:
        nonlocal calls
        calls += 1
        if calls in full:
            raise queue_full("so many are waiting")
        return opened(self, requests, **more)

    monkeypatch.setattr(EngineClient, "submit", open_or_refuse)
    assert explained(plain.client, TEXT) == expected
    assert calls > 9
    # Nor is the first text's explanation thrown away for the second's.
    calls, full = 0, set()
    explained(plain.client, "a")
    calls, full = 0, {calls + 1, calls + 2}
    assert len(explained(plain.client, ["a", TEXT])) == 2
    for refused in (1, 2):  # the text itself, or the first of its parts: nothing is done yet
        calls, full = 0, {refused}
        response = plain.client.post("/classify", json={"text": TEXT, "explain": True})
        assert response.status_code == 429


def test_waiting_for_the_queue_uses_nothing_of_a_limit(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine refuses, the key has not used, however often it is tried again."""
    file, secret = tmp_path / "keys.json", "a secret of a test"
    entry = KeyEntry(label="few", sha256=digest(secret), tokens_per_minute=150)
    file.write_bytes(dump_entries([entry]))
    submit = Engine.submit
    calls = 0

    def refuse_often(self: Engine, *requests: Request, probe: bool = False) -> None:
        nonlocal calls
        calls += not probe
        if not probe and 1 < calls < 200:
            raise QueueFull("so many are waiting")
        submit(self, *requests, probe=probe)

    monkeypatch.setattr(Engine, "submit", refuse_often)
    monkeypatch.setattr("app.engine.client.RETRY_SECONDS", 0)
    monkeypatch.setattr("app.api.native.explain._AT_ONCE", 4)
    with serve(models=checkpoints, api_keys=file) as live:
        headers = {"Authorization": f"Bearer {secret}"}
        sent = {"text": "the sea", "explain": True}
        calls = -1  # the text itself and the first of its parts are taken
        response = live.client.post("/classify", json=sent, headers=headers)
    assert response.status_code == 200, response.text
    assert calls >= 200


def test_a_client_that_leaves_ends_the_explanation(live: Live) -> None:
    steps = live.service.engine_clients()[0].stats
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=live.url, timeout=0.2) as client:
        client.post("/classify", json={"text": ["+" * 250] * 8, "explain": True})
    live.wait(lambda: live.running() + live.waiting() == 0)
    before = steps().steps
    time.sleep(0.1)
    assert steps().steps == before, "it goes on"


def test_the_deadline_holds(checkpoints: Path) -> None:
    with serve(models=checkpoints, request_timeout=0.3) as live:
        sent = {"text": ["+" * 250] * 8, "explain": True}
        response = live.client.post("/classify", json=sent)
        assert response.status_code == 504, response.text
        live.wait(lambda: live.running() + live.waiting() == 0)


# ---- unsure ----


def test_the_band_of_a_request(client: httpx.Client) -> None:
    [sure] = client.post("/classify", json={"text": TEXT}).json()["results"]
    spam = sure["probabilities"]["spam"]
    assert sure["leaning"] is None
    for band, unsure in [
        ([0, 1], True),
        ([spam, 1], True),  # the lower end belongs to it
        ([0, spam], False),  # the upper does not
        ([math.nextafter(spam, 1), 1], False),
        ([0, math.nextafter(spam, 1)], True),
        ([], False),
    ]:
        sent = {"text": TEXT, "unsure_band": band}
        [result] = client.post("/classify", json=sent).json()["results"]
        if unsure:
            assert (result["label"], result["leaning"]) == ("unsure", sure["label"])
        else:
            assert (result["label"], result["leaning"]) == (sure["label"], None)
        assert result["score"] == pytest.approx(sure["score"], abs=1e-6)
        assert result["probabilities"] == pytest.approx(sure["probabilities"], abs=1e-6)


def test_what_it_leans_to_is_by_the_threshold(client: httpx.Client) -> None:
    for threshold, leaning in ((0.999999, "ham"), (0.000001, "spam")):
        sent = {"text": TEXT, "unsure_band": [0, 1], "threshold": threshold, "explain": True}
        [result] = client.post("/classify", json=sent).json()["results"]
        assert (result["label"], result["leaning"]) == ("unsure", leaning)
        assert result["score"] == result["probabilities"][leaning]
        assert result["attributions"]["of"] == "spam"


def test_the_band_of_the_server(plain: Live) -> None:
    """Without a positive label, the most probable label's probability decides."""
    seen = set()
    for text in ("the sea", "girl", "The old man", "zzz", "+" * 9, "né", "a b c d", "!", "12"):
        [sure] = explained(plain.client, text, unsure_band=[])
        [result] = explained(plain.client, text)
        largest = max(sure["probabilities"].values())
        expected = "unsure" if largest < 0.36 else sure["label"]
        assert result["label"] == expected
        assert result["attributions"]["of"] == sure["label"]
        seen.add(expected == "unsure")
    assert seen == {True, False}


@pytest.mark.parametrize(
    "band", [[0.5], [0.5, 0.5], [0.8, 0.2], [-0.1, 0.5], [0.1, 1.1], [0, 1, 1], "0,1", [0, "1"]]
)
def test_bands_that_are_refused(client: httpx.Client, band: Any) -> None:
    response = client.post("/classify", json={"text": "a", "unsure_band": band})
    assert response.status_code == 422
    assert "unsure_band" in response.json()["detail"]


def test_a_label_of_that_name_does_not_clash(checkpoints: Path, tmp_path: Path) -> None:
    base = load_base(checkpoints / "base")
    head = ClassifierHead(base.config.n_embd, Labels(("sure", "unsure")))
    head.init_weights(torch.Generator().manual_seed(0))
    lora = LoRA(base.config, LoRASettings(rank=1))
    lora.init_weights(torch.Generator().manual_seed(0))
    save_adapter(tmp_path / "mood", base, task="classify", lora=lora, head=head, card={})
    paths: dict[str, Any] = {"base": checkpoints / "base", "classify": tmp_path / "mood"}
    with serve(**paths) as live:
        sent: dict[str, Any] = {"text": "a", "unsure_band": [0.1, 0.2]}
        response = live.client.post("/classify", json=sent)
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "unsure_band"
        for band in ("[]", "null"):
            sent["unsure_band"] = json.loads(band)
            assert live.client.post("/classify", json=sent).status_code == 200
    with serve(**paths, ready=False, unsure_band=(0.1, 0.2)) as live:
        live.wait(lambda: live.service.state != "loading")
        assert "--unsure-band" in str(live.service.failure)


def test_the_flag_of_the_server() -> None:
    assert load_settings(unsure_band="0.2, 0.8").unsure_band == (0.2, 0.8)
    for value in ("0.8,0.2", "1", "a,b", "0.1,0.2,0.3", "nan,1"):
        with pytest.raises(UsageError, match=r"--unsure-band .*LOW < HIGH"):
            load_settings(unsure_band=value)
