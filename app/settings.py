"""All settings of the service: environment variables `PENWRIGHT_…`, or flags of `penwright-serve`.

Each field is both: `max_waiting` is `PENWRIGHT_MAX_WAITING` and `--max-waiting`; a flag overrides
its variable.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.setting_types import MOST_BATCH, ApiKey, Band, Hosts, Origins, RootPath
from model.engine.settings import EngineSettings
from model.errors import UsageError


class Settings(BaseSettings):
    """Settings of one service process."""

    model_config = SettingsConfigDict(
        env_prefix="PENWRIGHT_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        # `models` is a field here, not a part of pydantic's own namespace.
        protected_namespaces=(),
    )

    models: Path | None = Field(
        None, description="directory of a model set, with models.json; by default the bundled one"
    )
    base: Path | None = Field(
        None,
        description="one checkpoint, .gguf file or Hugging Face directory to serve in place of a "
        "model set; answers /generate, and /instruct where it has a chat template",
    )
    classify: Path | None = Field(
        None, description="with --base: an adapter or a whole checkpoint that answers /classify"
    )
    instruct: Path | None = Field(
        None, description="with --base: an adapter or a whole checkpoint that answers /instruct"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    root_path: RootPath = Field(
        "",
        description="prefix under which a proxy offers the service, like /models; the proxy may "
        "take it off or pass it on. Without it, X-Forwarded-Prefix counts, from proxies that "
        "FORWARDED_ALLOW_IPS trusts and that take the prefix off",
    )
    api_keys: Path | None = Field(
        None, description="file of API keys, as penwright-keys writes it; each request needs one"
    )
    api_key: ApiKey | None = Field(
        None, description="one API key more; from the environment only, where nobody else reads it"
    )
    allow_anonymous: bool = Field(
        False, description="listen on an address that is not loopback without any API key"
    )
    open_metrics: bool = Field(False, description="answer /metrics without an API key")
    allowed_hosts: Hosts = Field(
        (),
        description="host names of this service beside localhost and addresses; without API keys, "
        "requests to others are refused, so that no web page reaches it under a name of its own",
    )
    cors_origins: Origins = Field(
        (),
        description="web pages that may call this service from a browser, like "
        "https://example.com; * is all of them",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the models run; auto takes the GPU if there is one"
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="precision of the weights; auto is bf16 on a GPU and fp32 on a CPU"
    )
    quantize: Literal["auto", "none", "int8", "int4"] = Field(
        "auto",
        description="8-bit weights on a CPU: a quarter of the memory, several times faster, and "
        "next to nothing lost; auto uses them on a CPU where the kernel was compiled. What a GGUF "
        "file has in Q4_0, Q4_1, Q4_K or Q8_0 is kept as it is. int4 is for other weights: half "
        "the memory again, and some quality lost",
    )
    deterministic: bool = Field(
        False,
        description="with weights that are not quantized, too: the same seed gives the same "
        "tokens whatever else is in the batch; slower. 8-bit weights need no such setting",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads; 0 takes the container's CPU quota, else all"
    )
    slots: int = Field(32, ge=1, le=4096, description="sequences that run at once")
    max_waiting: int = Field(
        256, ge=1, le=1_000_000, description="sequences that may wait; beyond that answers are 429"
    )
    step_tokens: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="most tokens computed in one step; at least slots; 0 is what suits the model",
    )
    cache_mb: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="memory for keys and values, in MB, for each base; 0 is room for 16 contexts, "
        "at most 4 GB",
    )
    max_context: int = Field(
        0,
        ge=0,
        le=1 << 20,
        description="most tokens of a sequence, prompt and answer together; 0 is the model's own "
        "context, or as much of it as a cache of 4 GB holds",
    )
    reuse_prefixes: bool = Field(
        True, description="take over what an earlier request computed for the same beginning"
    )
    speculate: bool = Field(
        True,
        description="compute tokens in advance that followed the same ones before, where that is "
        "faster; answers stay the same. With 8-bit weights or --deterministic, on a CPU",
    )
    force_text: bool = Field(
        True,
        description="where `response_format` or the form of a call leaves only one "
        "continuation, take it in the tokenizer's own tokens, without a step for each",
    )
    request_timeout: float = Field(
        120.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds after which a request is given up and answered 504",
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="largest request body, in bytes"
    )
    max_batch: int = Field(
        64, ge=1, le=MOST_BATCH, description="most sequences of one request: prompts x n, or texts"
    )
    max_explain_tokens: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="longest text, in tokens, that /classify explains; it reads the text about as "
        "many times",
    )
    unsure_band: Band = Field(
        None,
        description="the label is `unsure` where the deciding probability is at least LOW and "
        "below HIGH; requests can give their own",
    )
    max_requests: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="HTTP requests in progress at once; beyond that answers are 503",
    )
    body_timeout: float = Field(
        30.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds in which a request's headers, then its body, must arrive; else 408",
    )
    send_timeout: float = Field(
        30.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds after which a client is cut off that takes nothing of its answer",
    )
    stuck_timeout: float = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds without a step after which an engine with work to do counts as hung, "
        "and the process ends with 1",
    )
    drain_timeout: float = Field(
        30.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="seconds that running requests get to finish when the service is stopped",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="seconds, within --drain-timeout, that it goes on answering 503 with nothing "
        "left to do, until load balancers know; else their last connections may be cut off",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least important level that is logged"
    )
    log_format: Literal["json", "text"] = Field("json", description="form of the log lines")
    log_prompts: bool = Field(
        False, description="log the texts of requests, cut to 1000 characters each"
    )
    tracing_endpoint: str | None = Field(
        None,
        description="address of an OTLP/HTTP collector that gets a trace of each request, like "
        "http://127.0.0.1:4318; needs the extra `tracing`",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.base is not None and self.models is not None:
            raise ValueError("--base and --models exclude each other: give one of them")
        for name in ("classify", "instruct"):
            if getattr(self, name) is not None and self.base is None:
                raise ValueError(f"--{name} needs --base: the checkpoint that it belongs to")
        for name in ("models", "base", "classify", "instruct"):
            path: Path | None = getattr(self, name)
            if path is None or path.is_dir() or (name == "base" and path.is_file()):
                continue
            what = "directory or file" if name == "base" else "directory"
            raise ValueError(f"--{name} is {str(path)!r}: there is no such {what}")
        if self.api_keys is not None and not self.api_keys.is_file():
            raise ValueError(f"--api-keys is {str(self.api_keys)!r}: there is no such file")
        if self.quantize in ("int8", "int4") and self.dtype == "bf16":
            raise ValueError(f"--quantize {self.quantize} computes in fp32: leave --dtype bf16 out")
        if self.step_tokens and self.step_tokens < self.slots:
            raise ValueError(
                f"--step-tokens is {self.step_tokens}; it must be at least --slots ({self.slots})"
            )
        if self.max_batch > self.max_waiting:
            raise ValueError(
                f"--max-batch is {self.max_batch}; "
                f"it must be at most --max-waiting ({self.max_waiting})"
            )
        return self

    @property
    def engine(self) -> EngineSettings:
        return EngineSettings(
            slots=self.slots,
            max_waiting=self.max_waiting,
            step_tokens=self.step_tokens,
            cache_mb=self.cache_mb,
            max_context=self.max_context,
            reuse_prefixes=self.reuse_prefixes,
            speculate=self.speculate,
            force_text=self.force_text,
        )


SECRETS = frozenset({"api_key"})
"""Settings that come from the environment alone, and are never shown."""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with `overrides` (flags, possibly as text) in front.

    A flag that names models displaces the variables that name other models, with which it would
    not go together.

    Raises:
        UsageError: names every setting that is wrong, its value and what is allowed.
    """
    if "models" in overrides:
        overrides = {"base": None, "classify": None, "instruct": None, **overrides}
    elif "base" in overrides:
        overrides = {"models": None, **overrides}
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise UsageError("; ".join(_explain(entry) for entry in error.errors())) from None


def _explain(entry: Any) -> str:
    if not entry["loc"]:
        return str(entry["ctx"]["error"])
    name = str(entry["loc"][0])
    message = entry["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if name in SECRETS:
        return f"PENWRIGHT_{name.upper()} {message}"
    flag = name.replace("_", "-")
    return f"--{flag} (PENWRIGHT_{name.upper()}) is {str(entry['input'])!r}: {message}"
