"""A language model behind HTTP that marks answers from 0 to 100, as in the book's chapter 7.

Two ways of asking are known: `/v1/chat/completions` of OpenAI, which most servers have, and
`/api/chat` of Ollama. What may come back, and what becomes of it:

    a whole number from 0 to 100   the score
    any other answer               a failure: score 0, with the answer's text
    HTTP 400, 413 or 422, or no    the same where the judge has answered before; else the address
    chat completion at all         or the model is wrong, and nothing is judged
    HTTP 401, 403, 404, …          nothing more is judged
    HTTP 408, 429 or 5xx, a        asked again, later and later; in the end `Unavailable`, which is
    timeout, no connection         no failure of the model that is judged
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from model.errors import PenwrightError, UsageError
from model.prompts import Alpaca, Message
from model.prompts.parts import Text

APIS = ("auto", "openai", "ollama")

_PATHS = {"openai": ("/v1/chat/completions", "/v1"), "ollama": ("/api/chat", "/api")}
_MODELS = {"openai": ("/v1/models", "data", "id"), "ollama": ("/api/tags", "models", "name")}
_LIKE_OPENAI = "/chat/completions"  # also below another path than /v1
_SHOWN = 300  # characters of a server's message in an error
_LONGEST_WAIT = 60.0
_REFUSED = (400, 413, 422)
_AGAIN = (408, 425, 429)
_SEED, _CONTEXT = 123, 4096  # the book's seed; Ollama's answers depend on the context's length, too

_SCORE = re.compile(
    r"(?:the\s+)?(?:score\s*(?:is|:|=)?)?\s*([0-9]{1,3})(?:\.0+)?"
    r"\s*(?:%|percent|(?:/|out of)\s*100)?\s*\.?",
    re.IGNORECASE,
)
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


class Unavailable(PenwrightError):
    """The judge gave no answer, although it was asked several times."""


class Refused(PenwrightError):
    """The judge answered, but not with a chat completion."""


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge, and how patiently it is asked."""

    url: str
    """Of the server; with or without the path of its API."""
    model: str | None = None
    """None takes the only model that the server has."""
    api: str = "auto"
    key: str | None = None
    timeout: float = 120.0
    """Seconds that one answer may take."""
    retries: int = 4
    """How often it is asked again."""
    backoff: float = 1.0
    """Seconds before it is asked for the second time; twice as long each time after."""
    max_tokens: int = 0
    """Of an answer; 0 leaves it to the server."""

    def __post_init__(self) -> None:
        # An address that holds a password, and a key, are not repeated in a message.
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
            secret = parts.password is not None or bool(parts.query)
        except ValueError:
            good, secret = False, False
        if secret:
            raise UsageError(
                "--judge-url holds a password or a query; give a key in the variable that "
                "--judge-key-env names"
            )
        self._check("url", good, "http://HOST… or https://HOST…")
        self._check("api", self.api in APIS, f"one of {', '.join(APIS)}")
        self._check("timeout", 0 < self.timeout <= 86400, "above 0 seconds, and at most a day")
        self._check("retries", 0 <= self.retries <= 20, "in 0 … 20")
        self._check("max_tokens", self.max_tokens >= 0, "at least 0")
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise UsageError(
                "the key in the variable that --judge-key-env names is empty, or has characters "
                "that no HTTP header can hold"
            )

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            flag = name.replace("_", "-")
            raise UsageError(f"--judge-{flag} is {getattr(self, name)}; it must be {allowed}")


def question(
    instruction: str, input: str, output: str, response: str, earlier: Sequence[Message] = ()
) -> str:
    """What the judge is asked; the book's words.

    Args:
        earlier: what was said before the instruction, in a chat.
    """
    parts = Alpaca().render([*earlier, Message("user", instruction, input)])
    prompt = "".join(part.text for part in parts if isinstance(part, Text))
    task = prompt.removesuffix("\n\n### Response:\n")
    return (
        f"Given the input `{task}` and correct output `{output}`, score the model response "
        f"`{response}` on a scale from 0 to 100, where 100 is the best score. "
        "Respond with the integer number only."
    )


QUESTION_VERSION = 1
"""Raise it with `question`: scores of different questions do not compare."""


def parse_score(answer: str) -> int | None:
    """The number that is the whole answer, but for thoughts before it, words such as "Score:" and
    emphasis; None if there is none from 0 to 100."""
    text = _THOUGHTS.sub("", answer).replace("*", "").strip(" \t\r\n`\"'")
    found = _SCORE.fullmatch(text)
    score = int(found[1]) if found else -1
    return score if 0 <= score <= 100 else None


class Judge:
    """A judge that has been found. `connect` makes it."""

    def __init__(self, client: httpx.AsyncClient, settings: JudgeSettings, endpoint: str) -> None:
        self._client = client
        self.settings = settings
        """With the API and the model that were found."""
        self.endpoint = endpoint

    async def ask(self, prompt: str) -> str:
        """The text of the judge's answer.

        Raises:
            Unavailable: there is none, after all tries.
            Refused: there is one, but not of the form of a chat completion.
            PenwrightError: the server does not let us in, or knows no such address or model.
        """
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
        }
        if settings.api == "ollama":
            limit = {"num_predict": settings.max_tokens} if settings.max_tokens else {}
            options = {"seed": _SEED, "temperature": 0, "num_ctx": _CONTEXT, **limit}
            body |= {"stream": False, "options": options}
        else:
            limit = {"max_tokens": settings.max_tokens} if settings.max_tokens else {}
            body |= {"temperature": 0, "seed": _SEED, **limit}
        response = await _request(self._client, settings, "POST", self.endpoint, body)
        if response.status_code in _REFUSED:
            raise Refused(_described(response, settings))
        _check_status(response, settings)
        try:
            value = response.json()
            message = (
                value["message"] if settings.api == "ollama" else value["choices"][0]["message"]
            )
            content = message["content"]
        except (ValueError, LookupError, TypeError):
            content = None
        if not isinstance(content, str):
            raise Refused(f"no chat completion: {_shown(response.text, settings)}")
        return content


@asynccontextmanager
async def connect(settings: JudgeSettings) -> AsyncIterator[Judge]:
    """The judge that the settings name, with the API and the model that it turns out to have.

    Raises:
        UsageError: the server has several models and none was named.
        Unavailable: it gives no answer.
        PenwrightError: it does not let us in.
    """
    headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
    # What is on this machine is never behind a proxy, whatever `http_proxy` says.
    proxies = not _is_here(settings.url)
    async with httpx.AsyncClient(headers=headers, timeout=None, trust_env=proxies) as client:
        api, root, endpoint = _place(settings)
        if api == "auto":
            probe = await _request(client, settings, "GET", root + "/api/version")
            api = "ollama" if _has_version(probe) else "openai"
        settings = replace(settings, api=api)
        if settings.model is None:
            settings = replace(settings, model=await _only_model(client, settings, root))
        yield Judge(client, settings, endpoint or root + _PATHS[api][0])


def _place(settings: JudgeSettings) -> tuple[str, str, str | None]:
    """The API, the address without its path, and where chats go if the address says it."""
    url = settings.url.rstrip("/")
    for api, paths in _PATHS.items():
        for path in paths:
            if settings.api in ("auto", api) and url.endswith(path):
                return api, url.removesuffix(path), None
    if settings.api in ("auto", "openai") and url.endswith(_LIKE_OPENAI):
        return "openai", url.removesuffix(_LIKE_OPENAI), url
    return settings.api, url, None


def _is_here(url: str) -> bool:
    """Whether an address is one of this machine alone."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _has_version(response: httpx.Response) -> bool:
    """Whether this is how Ollama answers."""
    try:
        return response.status_code == 200 and "version" in response.json()
    except (ValueError, TypeError):
        return False


async def _only_model(client: httpx.AsyncClient, settings: JudgeSettings, root: str) -> str:
    path, group, name = _MODELS[settings.api]
    response = await _request(client, settings, "GET", root + path)
    _check_status(response, settings)
    try:
        names = [str(model[name]) for model in response.json()[group]]
    except (ValueError, LookupError, TypeError):
        names = []
    if len(names) != 1:
        known = f"has {', '.join(names[:10])}" if names else "does not say which models it has"
        raise UsageError(f"--judge-model is missing, and {root} {known}")
    return names[0]


async def _request(
    client: httpx.AsyncClient,
    settings: JudgeSettings,
    method: str,
    url: str,
    body: dict[str, Any] | None = None,
) -> httpx.Response:
    """The server's answer, asked for again while the trouble may pass.

    Raises:
        Unavailable: there is none.
    """
    wait = settings.backoff
    for attempt in range(settings.retries + 1):
        pause = wait
        try:
            async with asyncio.timeout(settings.timeout):
                response = await client.request(method, url, json=body)
            if response.status_code not in _AGAIN and response.status_code < 500:
                return response
            trouble = _described(response, settings)
            pause = max(wait, _retry_after(response))
        except (TimeoutError, httpx.TimeoutException):
            trouble = f"no answer within {settings.timeout:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            trouble = _shown(str(error) or type(error).__name__, settings)
        if attempt < settings.retries:
            await asyncio.sleep(min(pause, _LONGEST_WAIT))
            wait *= 2
    tries = settings.retries + 1
    raise Unavailable(f"{url}: {trouble} (asked {tries} time{'s' if tries > 1 else ''})")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks us to wait; dates are not understood."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else 0.0


def _check_status(response: httpx.Response, settings: JudgeSettings) -> None:
    if response.status_code != 200:
        raise PenwrightError(f"{response.url}: {_described(response, settings)}")


def _described(response: httpx.Response, settings: JudgeSettings) -> str:
    return f"HTTP {response.status_code}: {_shown(response.text, settings)}"


def _shown(text: str, settings: JudgeSettings) -> str:
    """The beginning of a server's text on one line; servers repeat keys, messages must not."""
    if settings.key:
        text = text.replace(settings.key, "***")
    text = " ".join(text.split())
    return text[:_SHOWN] + "…" if len(text) > _SHOWN else text
