"""How a text is generated: the fields that /generate and /instruct have in common."""

from pydantic import Field

from app.api.fields import MOST_TOKENS, PriorityFields, ResponseFormat, Stops
from app.api.generation import GenerationOptions
from model.engine.request import Generate
from model.sampling import SamplingSettings

DEFAULT_NEW_TOKENS = 128


class SamplingFields(PriorityFields):
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

    def _options(
        self, temperature: float, n: int = 1, logprobs: int | None = None
    ) -> GenerationOptions:
        stop = self.stop or ()
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
        want = Generate(
            max_new_tokens=self.max_new_tokens or DEFAULT_NEW_TOKENS,
            sampling=sampling,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            stream=self.stream,
        )
        return GenerationOptions(
            want,
            must_fit=self.max_new_tokens is not None,
            choices=n,
            response_format=self.response_format,
        )
