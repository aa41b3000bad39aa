"""/openapi.json: programs are generated from it, so what it calls things is a promise."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

from .with_keys import asgi

OPERATIONS = {
    *("generate_generate_post", "instruct_instruct_post", "classify_classify_post"),
    *("tokenize_tokenize_post", "detokenize_detokenize_post", "models_models_get"),
    *("healthz_healthz_get", "readyz_readyz_get", "metrics_metrics_get"),
    "reload_admin_reload_post",
    *("completions_v1_completions_post", "chat_completions_v1_chat_completions_post"),
    *("embeddings_v1_embeddings_post", "list_models_v1_models_get"),
    "retrieve_model_v1_models__model__get",
    *("messages_v1_messages_post", "count_tokens_v1_messages_count_tokens_post"),
    *("ollama_chat_api_chat_post", "ollama_generate_api_generate_post"),
    *("ollama_embed_api_embed_post", "ollama_show_api_show_post"),
    *("ollama_tags_api_tags_get", "ollama_ps_api_ps_get", "ollama_version_api_version_get"),
}
SCHEMAS = {
    *("GenerateRequest", "GenerateResponse", "Choice", "Alternative", "TokenLogprobs", "Timings"),
    *("InstructRequest", "InstructResponse", "ClassifyRequest", "ClassifyResponse"),
    *("Classification", "Attributions", "TokenContribution", "ModelCard", "ModelsResponse"),
    *("TokenizeRequest", "TokenizeResponse", "DetokenizeRequest", "DetokenizeResponse"),
    *("TextFormat", "JsonObjectFormat", "JsonSchemaFormat", "RegexFormat", "ChoiceFormat"),
    *("NamedSchema", "ReloadResponse", "app__answers__Usage"),
    *("CompletionRequest", "CompletionResponse", "CompletionChoice", "CompletionLogprobs"),
    *("ChatRequest", "ChatResponse", "ChatChoice", "ChatMessage", "ChatLogprobs"),
    *("ChatTokenLogprob", "TopLogprob", "Message", "TextPart", "StreamOptions", "CachedTokens"),
    *("EmbeddingRequest", "EmbeddingResponse", "Embedding", "EmbeddingUsage"),
    *("Tool", "Function", "NamedTool", "FunctionName", "ToolCall", "CalledFunction"),
    "CallingMessage",
    *("Model", "ModelList", "ErrorBody", "ErrorMembers", "app__openai__answers__Usage"),
    *("MessagesRequest", "MessageParam", "TextBlock", "OutputConfig", "JSONOutputFormat"),
    *("MessageMetadata", "MessageResponse", "MessageUsage", "AnswerBlock", "CountTokensRequest"),
    *("TokenCount", "AnthropicErrorBody", "AnthropicErrorMembers", "OllamaErrorBody"),
    *("OllamaChatRequest", "OllamaMessage", "OllamaOptions", "OllamaChatResponse", "OllamaSaid"),
    *("OllamaGenerateRequest", "OllamaGenerateResponse", "OllamaEmbedRequest"),
    *("OllamaEmbedResponse", "OllamaVector", "OllamaShowRequest", "OllamaShown"),
    *("OllamaModels", "OllamaModel", "OllamaDetails", "OllamaProcesses", "OllamaRunning"),
    "OllamaVersion",
}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_no_operation_loses_its_name(document: dict[str, Any]) -> None:
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert {each["operationId"] for each in operations} >= OPERATIONS


def test_no_schema_loses_its_name(document: dict[str, Any]) -> None:
    """Wherever its class moves: of two with one name, FastAPI would put the module in front."""
    assert document["components"]["schemas"].keys() >= SCHEMAS


def test_it_is_not_sent_again_while_it_stays_the_same(client: httpx.Client) -> None:
    first = client.get("/openapi.json")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    assert client.head("/openapi.json").headers["etag"] == tag
    again = client.get("/openapi.json", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/openapi.json", headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


class Slow:
    """What makes the description, and waits until it is let."""

    def __init__(self, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let = threading.Event(), threading.Event()
        self.times = 0
        self.broken = False
        make = app.openapi

        def openapi() -> dict[str, Any]:
            self.times += 1
            self.begun.set()
            assert self.let.wait(60)
            if self.broken:
                raise ValueError("broken")
            return make()

        monkeypatch.setattr(app, "openapi", openapi)


@pytest.fixture
def app(checkpoints: Path) -> FastAPI:
    return create_app(Settings(models=checkpoints))


def test_others_are_answered_while_it_is_made_and_it_is_made_once(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(app, monkeypatch)
    assert slow.times == 0  # not before somebody asks: a start is to be quick

    async def ask() -> None:
        async with asgi(app) as client:
            asking = [asyncio.create_task(client.get("/openapi.json")) for _ in range(20)]
            while not slow.begun.is_set():
                await asyncio.sleep(0)
            # Were it made on the event loop, this would never come.
            assert (await client.get("/healthz")).status_code == 200
            assert not any(task.done() for task in asking)
            slow.let.set()
            answers = await asyncio.gather(*asking)
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.content for answer in answers}) == 1
            assert (await client.get("/openapi.json")).content == answers[0].content

    asyncio.run(ask())
    assert slow.times == 1


def test_who_leaves_takes_it_from_nobody(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(app, monkeypatch)

    async def ask() -> None:
        async with asgi(app) as client:
            first = asyncio.create_task(client.get("/openapi.json"))
            while not slow.begun.is_set():
                await asyncio.sleep(0)
            second = asyncio.create_task(client.get("/openapi.json"))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            slow.let.set()
            assert (await second).status_code == 200

    asyncio.run(ask())
    assert slow.times == 1


def test_one_that_cannot_be_made_is_tried_again(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(app, monkeypatch)
    slow.let.set()
    slow.broken = True

    async def status() -> int:
        async with asgi(app) as client:
            return (await client.get("/openapi.json")).status_code

    assert [asyncio.run(status()), asyncio.run(status())] == [500, 500]
    slow.broken = False
    assert [asyncio.run(status()), asyncio.run(status())] == [200, 200]
    assert slow.times == 3
