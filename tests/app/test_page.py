"""The page's files as they are served; tests/browser drives them."""

import re
from importlib.resources import files

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder

from app.api.pages import INDEX, MEDIA_TYPES, assets

from .conftest import ROOT

# A name of a language (in SVG), not an address that anything loads.
NAMESPACE = "http://www.w3.org/2000/svg"


def test_the_page_is_at_the_root(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1" in answer.text
    assert client.head("/").headers["etag"] == answer.headers["etag"]


def test_all_files_are_in_the_package_and_served(client: httpx.Client) -> None:
    names = {file.name for file in (files("app") / "web").iterdir()}
    assert {INDEX, "style.css", "main.js", "icon.svg"} <= names == set(assets())
    for name in names - {INDEX}:
        answer = client.get(f"/web/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == MEDIA_TYPES[name[name.rfind(".") :]]
        assert answer.content == (files("app") / "web" / name).read_bytes()


def test_all_files_are_in_the_wheel() -> None:
    included = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"app/web/{name}" for name in assets()} <= included


@pytest.mark.parametrize(
    "path",
    ["/web/index.html", "/web/nothing.js", "/web/..%2fmain.py", "/web/", "/web/%2e%2e/main.py"],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_an_unchanged_file_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/web/main.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/web/main.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/web/main.js", headers={"If-None-Match": '"other"'}).status_code == 200
    tags = [asset.etag for asset in assets().values()]
    assert len(set(tags)) == len(tags)


def test_limits(client: httpx.Client) -> None:
    assert client.get("/web/settings.json").json() == {
        "max_batch": 64,
        "max_body_bytes": 1 << 20,
    }


@pytest.mark.parametrize("name", sorted(assets()))
def test_no_file_names_an_address_elsewhere(name: str) -> None:
    text = assets()[name].content.decode().replace(NAMESPACE, "")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.\w[\w.-]*", text)
    assert "@import" not in text


def test_nothing_is_inline_and_addresses_are_relative() -> None:
    """So that a strict Content-Security-Policy and any `root_path` are fine."""
    text = assets()[INDEX].content.decode()
    assert not re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert all(not body.strip() for body in re.findall(r"<script[^>]*>(.*?)</script>", text, re.S))
    assert not re.findall(r'(?:href|src|action)="/', text)
    scripts = {name: asset.content.decode() for name, asset in assets().items()}
    for name in scripts:
        if name.endswith(".js"):
            for imported in re.findall(r'from "([^"]+)"', scripts[name]):
                assert imported.startswith("./"), name
                assert imported[2:] in scripts, name


@pytest.mark.parametrize("name", sorted(name for name in assets() if name.endswith(".js")))
def test_scripts_insert_text_and_no_html(name: str) -> None:
    text = assets()[name].content.decode()
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser",
        text,
    )
