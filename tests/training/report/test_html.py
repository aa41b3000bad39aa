"""The HTML report: any metrics, one file, and nothing that data say becomes markup."""

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from training.measure.intervals import proportion
from training.report.html import render
from training.report.tables import print_metrics

HOSTILE = (
    "\"><script>alert(1)</script><img src=x onerror='y'>&amp;{{ 7 * 7 }}{% raw %}$\\frac$\x00\x1b"
)

REPORT = {
    "command": "penwright-train evaluate base",
    "date": "2026-01-01",
    "machine": {"cpu": "a <cpu>", "gpu": None, "threads": 1},
    "seconds": 1.5,
}


def entry(metrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "checkpoint": {
            "name": "base",
            "id": "0" * 64,
            "task": "generate",
            "parameters": 14_000_000,
        },
        "metrics": metrics,
        "methods": {},
        "data": [],
        "curves": {},
        "samples": {},
        "card": {},
        "log": [],
        **changes,
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def images(page: Page) -> list[ET.Element]:
    """All figures, parsed: a figure that is no XML is not shown by a browser."""
    uris = [a["src"] for t, a in page.tags if t == "img"]
    uris += [a["srcset"] for t, a in page.tags if t == "source"]
    prefix = "data:image/svg+xml;base64,"
    assert all(uri and uri.startswith(prefix) for uri in uris)
    return [ET.fromstring(base64.b64decode(str(uri).removeprefix(prefix))) for uri in uris]


@pytest.fixture(scope="module")
def hostile() -> Page:
    """A report in which every text that is not Penwright's own is hostile."""
    shares = {f"{HOSTILE}{i}": proportion(i, 9) for i in range(6)}
    confusion = {"labels": [HOSTILE, "ham"], "counts": [[3, 1], [0, 5]]}
    bins = [{"n": 3, "confidence": 0.4, "accuracy": 0.3, "interval": [0.1, 0.8]}]
    curve = {HOSTILE: [[0, 0], [1, 1]], "other": [[0, 0], [1, 1]]}
    curves = {
        "roc": curve,
        "precision_recall": curve,
        "reliability": bins,
        "reliability_of": HOSTILE,
    }
    rows = [{HOSTILE: HOSTILE, "n": 1}]
    data = entry(
        {HOSTILE: {"n": 1, HOSTILE: HOSTILE, "shares": shares, "confusion": confusion}},
        curves={HOSTILE: curves},
        samples={HOSTILE: rows},
        data=rows,
        methods={HOSTILE: HOSTILE},
        card={"command": HOSTILE, "licences": [HOSTILE], "data": {"files": rows}},
        log=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_loss": 1.5}],
    )
    return Page(render({**REPORT, "command": HOSTILE}, {HOSTILE: data}))


def test_hostile_text_stays_text(hostile: Page) -> None:
    tags = {tag for tag, _ in hostile.tags}
    assert "script" not in tags
    assert hostile.text.count("<script>alert(1)</script>") > 15
    assert "{{ 7 * 7 }}{% raw %}" in hostile.text
    attributes = {name for _, attrs in hostile.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on")}


def test_hostile_labels_are_drawn_as_they_are(hostile: Page) -> None:
    figures = images(hostile)
    assert len(figures) == 2 * 6  # bars, confusion, three curves and the loss; light and dark
    for figure in figures:
        assert not [e for e in figure.iter() if e.tag.endswith(("script", "foreignObject"))]
    words = ["".join(figure.itertext()) for figure in figures]
    assert sum("<script>alert(1)" in text for text in words) >= 2 * 4


def test_labels_are_no_formulas_and_break_no_figure() -> None:
    labels = ["$\\frac$", "\x00\x1b", "a\nb", ""]
    confusion = {"labels": labels, "counts": [[1] * 4] * 4}
    light, dark = images(Page(render(REPORT, {"a": entry({"test": {"confusion": confusion}})})))
    words = [element.text for element in light.iter() if element.tag.endswith("text")]
    for shown in ("$\\frac$", "\ufffd\ufffd", "a b", "\ufffd"):
        assert words.count(shown) == 2  # true and predicted
    assert ET.tostring(light) != ET.tostring(dark)


def test_nothing_comes_from_elsewhere(hostile: Page) -> None:
    links = [
        value
        for tag, attrs in hostile.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "data", "action", "style") and tag != "i"
    ]
    assert links
    assert all(str(link).startswith("data:image/svg+xml") for link in links)
    (policy,) = [a["content"] for t, a in hostile.tags if t == "meta" and "http-equiv" in a]
    assert str(policy).startswith("default-src 'none'")
    assert not {tag for tag, _ in hostile.tags} & {"link", "iframe", "object", "base"}


def test_any_nested_metrics_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "seconds": 12,
        "speed": {"value": 71.5, "interval": [70.0, 73.0], "n": 5},
        "test": {
            "n": 40,
            "loss": 1.25,
            "exact_match": proportion(30, 40),
            "kinds": {
                "plural": {"n": 2345, "exact_match": proportion(9, 10), "rouge_l": 0.93751},
                "tense": {"n": 30, "notes": ["a", "b"]},
            },
            "bins": [{"low": 0.0, "count": 3}, {"low": 0.5, "count": 4}],
        },
    }
    text = re.sub(r"\s+", " ", Page(render(REPORT, {"one": entry(metrics)})).text)
    for expected in (
        "seconds 12 ",
        "speed 71.5000 70.0000 – 73.0000 5",
        "test n = 40",
        "loss 1.2500",
        "exact match 0.7500 0.5981 – 0.8581 40",
        "kinds / plural / n 2,345",
        "kinds / plural / exact match 0.9000",
        "kinds / plural / rouge l 0.9375",
        "kinds / tense / notes a, b",
        "low count 0.0000 3 0.5000 4",
    ):
        assert expected.replace(" ", "") in text.replace(" ", ""), expected
    print_metrics(metrics)
    printed = capsys.readouterr().out
    assert "95% [70.0000, 73.0000]  n = 5" in printed
    assert "    plural (n = 2,345)" in printed or "plural (n = 2345)" in printed
    assert "0.9375" in printed


def test_the_same_report_is_the_same_file() -> None:
    data = entry(
        {"test": {"n": 1, "confusion": {"labels": ["a", "b"], "counts": [[1, 0], [0, 1]]}}}
    )
    assert render(REPORT, {"one": data}) == render(REPORT, {"one": data})


def test_of_many_labels_the_worst_mistakes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    labels = [f"label-{i}" for i in range(20)]
    counts = [[10 if i == j else 0 for j in range(20)] for i in range(20)]
    counts[3][4], counts[7][1] = 2, 5
    print_metrics({"test": {"confusion": {"labels": labels, "counts": counts}}})
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said if "taken" in line] == [
        "label-7 was taken for label-1: 5 of 15",
        "label-3 was taken for label-4: 2 of 12",
    ]
    small = {"labels": labels[:2], "counts": [[3, 1], [0, 4]]}
    print_metrics({"test": {"confusion": small}})
    assert "true \\ said" in capsys.readouterr().out
