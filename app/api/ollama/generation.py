"""What chats and texts have in common: fields, options, and the objects of streams.

    {"model": "instruct", "created_at": …, "message": {…}, "done": false}
    {"model": "instruct", "created_at": …, "message": {…}, "done": true, "done_reason": "stop", …}

An object is a line. While there is nothing to tell, there are some without text; an error after the
first byte is a line `{"error": …}`, and the end. `null` means the same as leaving a field out.
"""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator
from starlette.responses import JSONResponse, Response

from app.api.field_marks import IGNORED, Only
from app.api.fields import MOST_TOKENS, Fields, JsonObjectFormat, JsonSchemaFormat, Stops, Str
from app.api.generation import UNBOUNDED, GenerationOptions
from app.api.responses import Answer, Completion, encode_line
from app.engine.loading import ServedModel
from app.errors import invalid
from model.engine.request import Finished, Generate, Text
from model.sampling import SamplingSettings

Whole = Annotated[int | None, IGNORED]
Switch = Annotated[bool | None, IGNORED]
KeepAlive = Annotated[int | float | str | None, IGNORED]
"""Models are kept as long as they are served."""


class OllamaOptions(Fields):
    """How a text is generated. What would say how a model is loaded asks for nothing: it is."""

    num_predict: int | None = Field(
        None,
        ge=-2,
        le=MOST_TOKENS,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit the "
        "model's context; if not, or with -1 or -2, it is what the context has room for.",
    )
    temperature: float | None = Field(
        0.8,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )
    top_k: int | None = Field(
        40,
        ge=0,
        le=MOST_TOKENS,
        description="Draw from the k most probable tokens only; 0 is all.",
    )
    top_p: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="Draw from the smallest set of most probable tokens that has this "
        "probability together.",
    )
    min_p: float | None = Field(
        0.0,
        ge=0,
        le=1,
        description="Draw only tokens at least this share as probable as the most probable one.",
    )
    seed: int | None = Field(
        None, ge=-1, le=2**63 - 1, description="Of the draws, as in /generate; -1 draws anew."
    )
    stop: Stops | None = Field(
        None,
        description="Up to 8 strings; the first that appears ends the text and is no part of it.",
    )
    repeat_penalty: float | None = Field(
        1.0,
        ge=1e-6,
        le=10,
        description="Above 1, makes tokens of the prompt and of the text so far less likely.",
    )
    presence_penalty: float | None = Field(
        0.0,
        ge=-2,
        le=2,
        description="Taken from the logits of tokens that were generated before.",
    )
    frequency_penalty: float | None = Field(
        0.0, ge=-2, le=2, description="The same for each time that a token was generated."
    )
    repeat_last_n: Annotated[Any, Only(None, -1)] = None
    penalize_newline: Annotated[Any, Only(None, True)] = None
    typical_p: Annotated[Any, Only(None, 1.0)] = None
    tfs_z: Annotated[Any, Only(None, 1.0)] = None
    mirostat: Annotated[Any, Only(None, 0)] = None
    vocab_only: Annotated[Any, Only(None, False)] = None
    embedding_only: Annotated[Any, Only(None, False)] = None
    mirostat_tau: Annotated[float | None, IGNORED] = None
    mirostat_eta: Annotated[float | None, IGNORED] = None
    num_ctx: Whole = Field(None, description="At most the model's context.")
    num_keep: Whole = None
    num_batch: Whole = None
    num_gpu: Whole = None
    main_gpu: Whole = None
    num_thread: Whole = None
    numa: Switch = None
    low_vram: Switch = None
    f16_kv: Switch = None
    logits_all: Switch = None
    use_mmap: Switch = None
    use_mlock: Switch = None

    @field_validator("num_predict")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("must be at least 1; -1 is as many as the context has room for")
        return value

    def check_context(self, model: ServedModel) -> None:
        """
        Raises:
            Problem: 422, a larger context is asked for than the model has.
        """
        limit = model.context_length
        if self.num_ctx is not None and self.num_ctx > limit:
            reason = f"is {self.num_ctx}, more than the model's context of {limit}"
            raise invalid("options.num_ctx", reason, self.num_ctx)


def _form(value: Any) -> str:
    return "schema" if isinstance(value, dict) else "name"


class GenerationFields(Fields):
    """What chats and texts have in common."""

    model: Str = Field(description="Name of a model, as /api/tags lists them, or without its tag.")
    stream: bool | None = Field(
        True, description="Send the text piece by piece, as `application/x-ndjson`."
    )
    format: (
        Annotated[
            Annotated[Literal["", "json"], Tag("name")] | Annotated[dict[str, Any], Tag("schema")],
            Discriminator(_form),
        ]
        | None
    ) = Field(None, description="`json`, or a JSON schema: what the text must be as a whole.")
    options: OllamaOptions | None = None
    keep_alive: KeepAlive = None
    think: Annotated[Any, Only(None, False)] = None
    logprobs: Annotated[Any, Only(None, False)] = None
    top_logprobs: Annotated[Any, Only(None, 0)] = None
    truncate: Annotated[Any, Only(None, False)] = None
    shift: Annotated[Any, Only(None, False)] = None

    @property
    def no_thoughts_field(self) -> str | None:
        return None if self.think is None else "think"

    @property
    def generation_options(self) -> GenerationOptions:
        given = self.options or OllamaOptions.model_validate({})
        stop = given.stop or ()
        sampling = SamplingSettings(
            temperature=0.8 if given.temperature is None else given.temperature,
            top_k=(40 if given.top_k is None else given.top_k) or None,
            top_p=given.top_p or 0.9,
            min_p=given.min_p or 0.0,
            repetition_penalty=given.repeat_penalty or 1.0,
            presence_penalty=given.presence_penalty or 0.0,
            frequency_penalty=given.frequency_penalty or 0.0,
            seed=None if given.seed == -1 else given.seed,
        )
        bounded = given.num_predict is not None and given.num_predict > 0
        want = Generate(
            max_new_tokens=given.num_predict if given.num_predict and bounded else UNBOUNDED,
            sampling=sampling,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stream=self.stream is not False,
        )
        return GenerationOptions(
            want,
            must_fit=bounded,
            limit="options.num_predict",
            response_format=self._response_format,
            format_field="format",
        )

    @property
    def _response_format(self) -> JsonObjectFormat | JsonSchemaFormat | None:
        if isinstance(self.format, dict):
            return JsonSchemaFormat.of(self.format)
        return JsonObjectFormat(type="json_object") if self.format else None


class OllamaResponse(BaseModel):
    """An answer, or the last object of a stream; others of a stream end with `done`."""

    model: str
    created_at: str = Field(description="When it was written.")
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = Field(
        None, description="`load` if there was nothing to answer."
    )
    total_duration: int | None = Field(None, description="Nanoseconds: the sum of the following.")
    load_duration: int | None = Field(None, description="Until the engine took the request up.")
    prompt_eval_count: int | None = Field(None, description="Tokens of the prompt.")
    prompt_eval_duration: int | None = Field(None, description="From there to the first token.")
    eval_count: int | None = Field(None, description="Tokens that were generated.")
    eval_duration: int | None = Field(None, description="From the first to the last.")


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339, by default of now."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def head(model: ServedModel) -> dict[str, Any]:
    """What each object begins with."""
    return {"model": model.name, "created_at": timestamp()}


def loaded(model: ServedModel, said: dict[str, Any]) -> Response:
    """The answer where there is nothing to answer: clients ask so for a model to be loaded.

    Args:
        said: the members that have the text.
    """
    return JSONResponse({**head(model), **said, "done": True, "done_reason": "load"})


class OllamaAnswer(Answer):
    """What answers of chats and texts have in common."""

    media_type = "application/x-ndjson"

    @abstractmethod
    def said(self, text: str) -> dict[str, Any]:
        """The members that have the text."""

    async def whole(self, completions: Sequence[Completion]) -> Response:
        [completion] = completions
        return JSONResponse(self._object(completion.text, completion.finished))

    def _object(self, text: str, end: Finished | None = None) -> dict[str, Any]:
        found = {**head(self.generation.model), **self.said(text), "done": end is not None}
        if end is not None:
            times = end.timings
            found |= {
                "done_reason": "length" if end.reason == "length" else "stop",
                "total_duration": nanoseconds(times.queue + times.prefill + times.decode),
                "load_duration": nanoseconds(times.queue),
                "prompt_eval_count": self.generation.prompt_tokens,
                "prompt_eval_duration": nanoseconds(times.prefill),
                "eval_count": end.completion_tokens,
                "eval_duration": nanoseconds(times.decode),
            }
        return found

    def text(self, index: int, event: Text) -> bytes:
        return encode_line(self._object(event.text))

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        return encode_line(self._object("", event))

    def sign_of_life(self) -> bytes:
        return encode_line(self._object(""))

    def failure(self, body: dict[str, Any]) -> bytes:
        return encode_line(body)

    def done(self) -> bytes:
        return b""
