"""Links of the documents lead to files and headings that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "*/README.md", "docs/*.md", "checkpoints/*/README.md")
    for page in ROOT.glob(pattern)
)


def prose(page: Path) -> str:
    """Its text without blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What links call its headings, as GitHub makes it of them."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def lost(page: Path) -> list[str]:
    """Links to other files or headings of the project that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link or (target.exists() and (not anchor or anchor in anchors(target))):
            continue
        found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert lost(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# It's `one`, two\n```\n# none\n```\n[a](#its-one-two) [b](page.md#none) [c](page.md) "
        "[d](other.md) [e](http://127.0.0.1/other.md)\n"
    )
    assert lost(page) == ["page.md#none", "other.md"]
