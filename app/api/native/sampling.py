"""Bodies of requests; those of answers are in `app.api.native.answers`, examples beside them.

What depends on the model (its context, its labels) is checked by the routes.
"""

from typing import Annotated

from pydantic import Field

from app.api.fields import (
    MOST_TOKENS,
    Band,
    Body,
    NonEmpty,
    Prompts,
    ResponseFormat,
    Stops,
    Str,
    Texts,
)
from app.api.options import DEFAULT_NEW_TOKENS, Options
from model.sampling import SamplingSettings


class _Sampling(Body):
    """How a text is generated."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit "
        "the model's context; if not, it is what the context has room for, at most "
        f"{DEFAULT_NEW_TOKENS}.",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        description="Draw from the k most probable tokens only; null is all.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw from the smallest set of most probable tokens that has this "
        "probability together.",
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Draw only tokens at least this share as probable as the most probable one.",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=1e-6,
        le=10,
        description="Above 1, makes tokens of the prompt and of the text so far less likely.",
    )
    presence_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        description="Taken from the logits of tokens that were generated before.",
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="The same for each time that a token was generated."
    )
    stop: Stops | None = Field(
        None,
        description="Up to 8 strings; the first that appears ends the text and is no part of it.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="The same request with the same seed draws with the same numbers, and on a "
        "CPU with the same build and settings gets the same text, except that what else is in "
        "the batch can change the last bits of the logits, so that a near-tie may fall the other "
        "way. With `n`, choice k of a prompt draws with seed + k. Null draws anew each time.",
    )
    ignore_eos: bool = Field(
        False, description="Go on after the end token, up to `max_new_tokens`."
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="What the text must be as a whole: `text` (anything), `json_object`, "
        "`json_schema`, `regex` or `choice`. Only tokens are drawn with which it can still become "
        "that. Its end is `eos`, or `stop` where nothing can follow. With the `finish_reason` "
        "`length`, or if a `stop` string ended it, it is only a beginning. Properties of an object "
        "come in the schema's order, and spaces only after commas and colons.",
    )
    stream: bool = Field(False, description="Send the text piece by piece, as `text/event-stream`.")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _options(self, temperature: float, n: int = 1, logprobs: int | None = None) -> Options:
        sampling = SamplingSettings(
            temperature=temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
        )
        return Options(
            sampling,
            max_new_tokens=self.max_new_tokens,
            choices=n,
            stops=self.stops,
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            stream=self.stream,
        )


class GenerateRequest(_Sampling):
    """Continue a text, or several."""

    prompt: Prompts = Field(
        description="A text to continue, or a list of them. An empty one starts a new document: "
        "the model is then given its end token, which stands between documents."
    )
    temperature: float = Field(
        0.8,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )
    n: int = Field(
        1,
        ge=1,
        le=8,
        description="Choices for each prompt; choice k of prompt p has the index p * n + k.",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the log-probability of each token and those of this many of the most "
        "probable ones; null reports none. They are the model's own, before temperature.",
    )

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def options(self) -> Options:
        return self._options(self.temperature, self.n, self.logprobs)


class InstructRequest(_Sampling):
    """Follow an instruction."""

    instruction: NonEmpty = Field(description="What to do.")
    input: Str = Field("", description="The text to do it with, if the instruction needs one.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )

    @property
    def options(self) -> Options:
        return self._options(self.temperature)


class ClassifyRequest(Body):
    """Label a text, or several."""

    text: Texts = Field(description="A text, or a list of them; none may be empty.")
    truncate: bool = Field(
        False,
        description="Read only the beginning of a text that is longer than the model's context; "
        "otherwise such a text is an error.",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability from which a text gets the positive label, in place of the "
        "trained one. Only for a model with a positive label.",
    )
    explain: bool = Field(
        False,
        description="Say what each token contributes to the label: `attributions`. Reads each text "
        "about as many times as it has tokens; `--max-explain-tokens` bounds them.",
    )
    unsure_band: Band | None = Field(
        None,
        description="`[low, high]`: where the probability of the positive label, or for a model "
        "without one that of the most probable label, is at least `low` and below `high`, the "
        "label is `unsure`. By default as the server is set; `[]` is none.",
    )

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


class TokenizeRequest(Body):
    """Turn a text into token ids."""

    text: Str = Field(description="The text; all of it is taken as ordinary text.")


class DetokenizeRequest(Body):
    """Turn token ids into a text."""

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        max_length=MOST_TOKENS, fail_fast=True, description="Token ids of the vocabulary."
    )
