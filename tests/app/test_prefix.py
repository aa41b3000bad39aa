"""Under a prefix that a proxy puts before all paths, whether it takes it off again or not."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.responses import RedirectResponse

from app.http.guard import OPEN_UNDER
from app.main import create_app
from app.paths import MOST_PREFIX, outer_prefix, path_prefix, route_path
from app.settings import Settings

from .conftest import Live, serve
from .test_security import send
from .wire import connect, get, read_answer
from .with_keys import ENV, OPEN, USER, asgi, bearer, paths, write_keys

PREFIX = "/team/models"
OUTSIDE = "https://example.com"
KNOWN = bearer(USER)
WAYS = (PREFIX, "")
"""What a path begins with here: the proxy passes the prefix on, or takes it off."""
WRONG = (
    "team",
    "//evil.example",
    "/a//b",
    "/a/../b",
    "/..",
    "/./a",
    "https://evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/a b",
    "/a?b",
    "/a#b",
    "/%2e%2e",
    "/a\tb",
    '/"><script>alert(1)</script>',
    "/'-alert(1)-'",
    "/a&b",
    "/é",
    "/a\n",
    "/a, /b",
    "javascript:alert(1)",
    "/" + "a" * MOST_PREFIX,
)
RIGHT = ("/x", "/x/", PREFIX, "/user/name@example.com/proxy:8000", "/v1", "/docs", "/~a/b_c=d+e-f")


@pytest.fixture(scope="module")
def prefixed(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """With keys, and told of its prefix."""
    keys = write_keys(tmp_path_factory.mktemp("keys"))
    with serve(models=checkpoints, api_keys=keys, api_key=ENV, root_path=PREFIX) as live:
        yield live


def inside(address: str, way: str) -> str:
    """The path that a proxy asks the service for, of an address as its clients see it."""
    parts = urlsplit(address)
    assert f"{parts.scheme}://{parts.netloc}" == OUTSIDE, address
    assert f"{parts.path}/".startswith(f"{PREFIX}/"), address
    return (way + parts.path[len(PREFIX) :] or "/") + (f"?{parts.query}" if parts.query else "")


def addresses(page: str) -> list[str]:
    """All that an HTML page names."""
    found = re.findall(r'(?:href|src|action)="([^"#]+)"', page) + re.findall(r"url: '(.+?)'", page)
    assert found
    return found


# ---- what a prefix is ----


@pytest.mark.parametrize("text", WRONG)
def test_what_could_be_more_than_a_prefix_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be a path like /models"):
        path_prefix(text)


@pytest.mark.parametrize("text", RIGHT)
def test_a_prefix_loses_the_slash_at_its_end(text: str) -> None:
    assert path_prefix(text) == text.rstrip("/")
    assert path_prefix("/") == path_prefix("") == ""


ROOTS = ("", "/", "/x", "/x/", "/x/y", "/v", "/v1", "x", "/X", "/xx", "//x", "/é")
ENDS = ("", "/", "y", "/y", "/y/", "//", "/v1", "/x", "/x/y", "/metrics", "/é", "%2fy")


def test_the_path_of_a_route_is_what_the_router_takes_it_for() -> None:
    """Who may call is decided by it: were it another, a path would be open that the router has
    answered by something that is not."""
    cases = [{"path": f"{root}{end}"} for root in ROOTS for end in ENDS]
    cases += [{**case, "root_path": root} for case in cases for root in ROOTS]
    for case in cases:
        assert route_path(case) == get_route_path(case), case
    assert {"/metrics", "", "/x/y", "y"} <= {route_path(case) for case in cases}


# ---- the setting ----


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", ["", "/", "/docs"])
def test_all_that_a_page_names_is_below_the_prefix(prefixed: Live, start: str, way: str) -> None:
    page = f"{OUTSIDE}{PREFIX}{start}"
    answer = prefixed.client.get(inside(page, way))
    assert answer.status_code == 200
    for name in addresses(answer.text):
        target = inside(urljoin(page, name), way)
        assert prefixed.client.get(target).status_code == 200, name


def test_scripts_call_what_is_beside_their_own_folder(prefixed: Live) -> None:
    names = addresses(prefixed.client.get("/").text)
    [main] = [name for name in names if name.endswith("main.js")]
    seen, left = set(), [urljoin(f"{OUTSIDE}{PREFIX}/", main)]
    calls = set()
    while left:
        address = left.pop()
        if address in seen:
            continue
        seen.add(address)
        script = prefixed.client.get(inside(address, PREFIX)).text
        left += [urljoin(address, name) for name in re.findall(r'from "([^"]+)"', script)]
        # The only way to an address of the service, and it starts from the file itself.
        assert not re.findall(r"location\.(?:href|origin|pathname)|baseURI", script), address
        calls |= set(re.findall(r"new URL\([^()]*\)", script))
        calls |= set(re.findall(r"\bfetch\((?:[^()]|\([^()]*\))*\)", script))
    assert len(seen) > 10
    assert calls == {"new URL(`../${path}`, import.meta.url)", "fetch(address(path), options)"}
    [api] = [address for address in seen if address.endswith("/api.js")]
    assert urljoin(api, "../generate") == f"{OUTSIDE}{PREFIX}/generate"


@pytest.mark.parametrize("way", WAYS)
def test_the_description_says_where_its_paths_begin(prefixed: Live, way: str) -> None:
    found = f"{OUTSIDE}{PREFIX}/openapi.json"
    document = prefixed.client.get(inside(found, way)).json()
    [server] = document["servers"]
    # OpenAPI: relative to where the document is. Swagger UI takes the slash at the end off.
    assert urljoin(found, server["url"]).rstrip("/") == f"{OUTSIDE}{PREFIX}"
    assert "/generate" in document["paths"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/generate/", "/generate"),
        ("/v1/completions/", "/v1/completions"),
        ("/models/?a=%2F%20b&c=/d?e", "/models?a=%2F%20b&c=/d?e"),
        ("/models%2F", "/models"),
        ("/v1%2Fmodels%2F/", "/v1/models"),
    ],
)
def test_a_slash_too_many_leads_to_the_same_path_below_the_prefix(
    prefixed: Live, way: str, path: str, expected: str
) -> None:
    for host in ("example.com", "evil.example"):
        status, headers = send(prefixed.url, "GET", way + path, Host=host, **KNOWN)
        assert status == 307
        assert urljoin(f"{OUTSIDE}{PREFIX}{path}", headers["location"]) == (
            f"{OUTSIDE}{PREFIX}{expected}"
        )
        assert not re.match(r"/|[a-z+]+:", headers["location"])  # names no host, and no root


def test_each_of_many_slashes_is_a_step_up(prefixed: Live) -> None:
    """As RFC 3986, 5.2.4, has it; Python's `urljoin` counts them as one."""
    for way in WAYS:
        status, headers = send(prefixed.url, "GET", f"{way}/generate///", **KNOWN)
        assert (status, headers["location"]) == (307, "../../../generate")


def test_without_a_prefix_redirects_lead_where_they_did(client: httpx.Client) -> None:
    answer = client.get("/models/", params={"a": "b"})
    assert answer.status_code == 307
    assert answer.next_request is not None
    assert answer.next_request.url == f"{client.base_url}/models?a=b"
    assert client.get("/docs/assets").next_request.url == f"{client.base_url}/docs/assets/"  # type: ignore[union-attr]


def test_a_redirect_that_a_route_answers_is_left_as_it_is(checkpoints: Path) -> None:
    app = create_app(Settings(models=checkpoints, root_path=PREFIX))

    @app.get("/elsewhere")
    async def elsewhere() -> RedirectResponse:
        return RedirectResponse("https://example.org/there/")

    async def location() -> str:
        async with asgi(app) as client:
            return str((await client.get(f"{PREFIX}/elsewhere")).headers["location"])

    assert asyncio.run(location()) == "https://example.org/there/"


def test_under_the_prefix_a_key_is_needed_where_it_is_without_it(prefixed: Live) -> None:
    app = prefixed.server.config.app
    assert isinstance(app, FastAPI)
    found = paths(app)
    assert {"/generate", "/metrics", "/admin/reload"} | OPEN <= found
    for path in sorted(found):
        target = path.format(name="style.css", model="base")
        if path == "/docs/assets":
            target += "/swagger-ui.css"
        for way in WAYS:
            for method in ("GET", "HEAD"):
                status = send(prefixed.url, method, way + target)[0]
                assert (status == 401) == (path not in OPEN), (method, way, path)
            for method in ("POST", "DELETE", "OPTIONS"):
                assert send(prefixed.url, method, way + target)[0] == 401, (method, way, path)


@pytest.mark.parametrize(
    "target",
    [
        f"{PREFIX}{PREFIX}/healthz",
        f"{PREFIX}//healthz",
        f"{PREFIX}//metrics",
        f"/{PREFIX}/healthz",
        f"{PREFIX}healthz",
        f"{PREFIX}/healthz/",
        f"{PREFIX}/healthz/../generate",
        f"{PREFIX}/web/../metrics",
        f"{PREFIX}%2Fmetrics",
        f"{PREFIX}/%6detrics",
        "/team/healthz",
        "/TEAM/models/healthz",
        "/healthz/metrics",
        "*",
    ],
)
def test_no_spelling_of_a_prefix_gets_around_the_key(prefixed: Live, target: str) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        status = send(prefixed.url, method, target)[0]
        allowed = {401, 404} if any(f"{PREFIX}{under}" in target for under in OPEN_UNDER) else {401}
        assert status in allowed, (method, target)


@pytest.mark.parametrize("prefix", ["/healthz", "/web", "/docs", "/v1", "/metrics"])
def test_a_prefix_that_is_a_path_of_the_service_opens_nothing(
    checkpoints: Path, tmp_path: Path, prefix: str
) -> None:
    settings = Settings(
        models=checkpoints, api_keys=write_keys(tmp_path), root_path=prefix, open_metrics=False
    )
    app = create_app(settings)

    async def statuses() -> None:
        async with asgi(app) as client:
            for path in ("/metrics", "/generate", "/v1/models", "/models", "/admin/reload"):
                assert (await client.get(prefix + path)).status_code == 401, path
                assert (await client.post(prefix + path)).status_code == 401, path
                # Below /web/ there is nothing but files of the page.
                allowed = {401, 404} if prefix == "/web" else {401}
                assert (await client.get(2 * prefix + path)).status_code in allowed, path
                assert (await client.post(2 * prefix + path)).status_code == 401, path
            assert (await client.get(f"{prefix}/healthz")).status_code == 200
            assert (await client.get(f"{prefix}/models", headers=KNOWN)).status_code == 503

    asyncio.run(statuses())


def test_without_keys_the_prefix_lets_no_stranger_in(checkpoints: Path) -> None:
    with serve(models=checkpoints, root_path=PREFIX, allowed_hosts="own.example") as live:
        for way in WAYS:
            for path in ("/", "/models", "/metrics", "/generate"):
                evil = live.client.get(way + path, headers={"Host": "evil.example"})
                assert evil.status_code == 403, way + path
                assert evil.json()["type"].endswith(":host-not-allowed")
            for path in ("/tokenize", "/v1/completions"):
                origin = {"Origin": "https://evil.example"}
                answer = live.client.post(way + path, json={"text": "a"}, headers=origin)
                assert answer.status_code == 403
            own = live.client.get(f"{way}/models", headers={"Host": "own.example"})
            assert own.status_code == 200
            probe = live.client.get(f"{way}/healthz", headers={"Host": "evil.example"})
            assert probe.status_code == 200


@pytest.mark.parametrize("way", WAYS)
def test_metrics_policies_and_errors_are_those_of_the_route(prefixed: Live, way: str) -> None:
    client = prefixed.client
    assert client.post(f"{way}/tokenize", json={"text": "a"}, headers=KNOWN).status_code == 200
    client.get(f"{way}/nothing", headers=KNOWN)
    metrics = client.get(f"{way}/metrics", headers=KNOWN)
    assert 'route="/tokenize",status="200"' in metrics.text
    assert PREFIX not in metrics.text
    assert metrics.headers["cache-control"] == "no-store"
    assert metrics.headers["content-security-policy"].startswith("default-src 'none'")
    page = client.get(f"{way}/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    wrong = client.get(f"{way}/nothing", headers=KNOWN).json()
    assert wrong["instance"] == f"{PREFIX}/nothing"
    assert f"{PREFIX}/docs lists" in wrong["detail"]
    wrong = client.get(f"{way}/docs/assets/nothing", headers=KNOWN).json()
    assert f"; {PREFIX}/docs lists" in wrong["detail"]
    wrong = client.get(f"{way}/v1/nothing", headers=KNOWN).json()
    assert wrong["error"]["type"] == "invalid_request_error"


def test_the_page_is_known_again_by_its_tag_under_each_prefix(prefixed: Live, live: Live) -> None:
    tag = prefixed.client.get("/").headers["etag"]
    again = prefixed.client.get(f"{PREFIX}/", headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert live.client.get("/").headers["etag"] != tag
    assert prefixed.client.head(PREFIX).headers["etag"] == tag


# ---- the header ----


def said(prefix: str, *more: str) -> list[str]:
    return [f"X-Forwarded-Prefix: {value}" for value in (prefix, *more)]


def ask(live: Live, path: str, *headers: str) -> tuple[int, dict[str, str], str]:
    """An answer, but for what each has of its own."""
    with connect(live.url) as connection:
        connection.sendall(get(path, *headers))
        status, found, body = read_answer(connection)
    found = {name: value for name, value in found.items() if name not in ("date", "x-request-id")}
    text = body.decode()
    if found.get("content-type") == "application/problem+json":
        text = json.dumps({**json.loads(text), "request_id": None})
    return status, found, text


def test_a_proxy_that_takes_the_prefix_off_says_so_in_a_header(live: Live) -> None:
    for header in (said(PREFIX), said(f"{PREFIX}/"), [*said(PREFIX), "X-Forwarded-For: 9.9.9.9"]):
        _, _, text = ask(live, "/", *header)
        for name in addresses(text):
            assert name.startswith(f"{PREFIX}/")
            target = inside(urljoin(OUTSIDE, name), "")
            assert ask(live, target, *header)[0] == 200
        status, headers, _ = ask(live, "/models/", *header)
        assert status == 307
        assert urljoin(f"{OUTSIDE}{PREFIX}/models/", headers["location"]) == (
            f"{OUTSIDE}{PREFIX}/models"
        )
        status, _, text = ask(live, "/nothing", *header)
        assert json.loads(text)["instance"] == f"{PREFIX}/nothing"


PATHS = ("/", "/docs", "/openapi.json", "/nothing", "/models/", "/healthz", "/v1/nothing")


@pytest.mark.parametrize("prefix", [text for text in WRONG if "\n" not in text and "é" not in text])
def test_a_header_that_is_no_prefix_counts_as_none(live: Live, prefix: str) -> None:
    for path in PATHS:
        assert ask(live, path, *said(prefix)) == ask(live, path), path


def test_two_headers_count_as_none(live: Live) -> None:
    for path in PATHS:
        assert ask(live, path, *said("/a", "/b")) == ask(live, path)


def test_only_trusted_proxies_are_believed(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.1.2.3")
    with serve(models=checkpoints) as live:
        for headers in (said(PREFIX), [*said(PREFIX), "X-Forwarded-For: 10.1.2.3"]):
            for path in PATHS:
                assert ask(live, path, *headers) == ask(live, path)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.0/8")
    with serve(models=checkpoints) as live:
        assert PREFIX in ask(live, "/", *said(PREFIX))[2]


def test_the_setting_is_stronger_than_a_header(prefixed: Live) -> None:
    for path in PATHS:
        assert ask(prefixed, path, *said("/other")) == ask(prefixed, path)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/a/metrics", "/a"),
        ("/a/b/generate", "/a/b"),
        ("/healthz/metrics", "/healthz"),
        ("/web/metrics", "/web"),
        ("/models", "/models"),
        ("/metrics", "/healthz"),
        ("/generate", "/web"),
        ("/generate", "/"),
        ("/admin/reload", "/docs/assets"),
        ("//healthz", "/"),
    ],
)
def test_a_header_makes_no_path_another_ones(
    guarded: Live, live: Live, path: str, prefix: str
) -> None:
    """A proxy that refuses /metrics and lets the header pass would else let /a/metrics through."""
    for service in (guarded, live):
        assert ask(service, path, *said(prefix))[0] == ask(service, path)[0]
    assert ask(guarded, path, *said(prefix))[0] == (404 if path.startswith("/web/") else 401)


def test_other_servers_and_apps_around_it_have_their_own_prefix(checkpoints: Path) -> None:
    """The header counts for nothing there: who sent it is not known."""
    app: Any = create_app(Settings(models=checkpoints))

    async def pages() -> list[str]:
        found = []
        for client in (asgi(app), asgi(app, root_path="/api")):
            async with client:
                answer = await client.get("/", headers={"X-Forwarded-Prefix": PREFIX})
                found.append(answer.text)
        return found

    plain, below = asyncio.run(pages())
    assert 'src="web/main.js"' in plain
    assert 'src="/api/web/main.js"' in below
    assert outer_prefix({"root_path": "/api/docs/assets", "app_root_path": "/api"}) == "/api"
