"""/openapi.json: programs are generated from it, so what it calls things is a promise."""

from typing import Any

import httpx
import pytest

OPERATIONS = {
    *("generate_generate_post", "instruct_instruct_post", "classify_classify_post"),
    *("tokenize_tokenize_post", "detokenize_detokenize_post", "models_models_get"),
    *("healthz_healthz_get", "readyz_readyz_get", "metrics_metrics_get"),
    "reload_admin_reload_post",
    *("completions_v1_completions_post", "chat_completions_v1_chat_completions_post"),
    *("embeddings_v1_embeddings_post", "list_models_v1_models_get"),
    "retrieve_model_v1_models__model__get",
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
