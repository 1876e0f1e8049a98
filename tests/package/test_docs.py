"""Documents lead somewhere: each page is in the site's navigation, and what a link points at is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import rollstream
from tests.support.worker_process import ROOT
from tools.site.api_pages import PAGES
from tools.site.links import for_the_site, links, without_code
from tools.site.pages import documents, generated

SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
DOCUMENTS = documents()


def in_navigation(part: list[Any] | dict[str, Any] | str) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    else:
        for below in part if isinstance(part, list) else part.values():
            yield from in_navigation(below)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and mkdocs both give its headings: they differ in marks and in repeated headings."""
    text = path.read_text()
    lines = [text[begin.start() :].split("\n", 1)[0] for begin in re.finditer(r"^#+ ", without_code(text), re.M)]
    heads = [re.sub(r"\]\([^)]*\)|[\[`*]", "", line.lstrip("#").strip()) for line in lines]
    plain = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
    github, site = ([re.sub(mark, "-", one) for one in plain] for mark in (r"\s", r"[-\s]+"))
    return set(github) & set(site)


def test_every_page_has_its_place_in_the_navigation_of_the_site() -> None:
    pages = {*DOCUMENTS.values(), *generated().values()}
    named = list(in_navigation(SITE["nav"]))

    assert sorted(pages - set(named)) == [], "give these a title and a place in the nav of mkdocs.yml"
    assert sorted(set(named) - pages) == [], "the nav of mkdocs.yml names pages that are gone"
    assert len(named) == len(set(named))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: str) -> None:
    written = generated()
    broken = []
    for link in links((ROOT / document).read_text(), document):
        place = ROOT / link.path
        there = link.path in written or place.exists()
        if not there or (link.anchor and place.suffix == ".md" and link.anchor not in anchors(place)):
            broken.append(f"{link.path}#{link.anchor}")

    assert broken == [], f"{document} has links that lead nowhere, or to a heading that comes twice or is another's"


def test_every_public_name_is_on_one_page_of_the_reference() -> None:
    named = [name for page in PAGES.values() for name in page.names if "." not in name]

    assert sorted(named) == sorted(rollstream.__all__), "give a new name its place in tools/site/api_pages.py"


PLACES: Mapping[str, str] = {
    "docs/a.md": "a.md",
    "docs/api/x.md": "api/x.md",
    "README.md": "overview.md",
    "docs/design.md": "design.md",
}


@pytest.mark.parametrize(
    ("document", "text", "there"),
    [
        ("docs/a.md", "[b](api/x.md#y)", "[b](api/x.md#y)"),
        ("docs/a.md", "[b](../README.md)", "[b](overview.md)"),
        ("docs/a.md", "[`run`](../Makefile)", "[`run`](files/Makefile)"),
        ("docs/a.md", "`[b](../Makefile)`", "`[b](../Makefile)`"),
        ("docs/a.md", "```\n[b](../Makefile)\n```", "```\n[b](../Makefile)\n```"),
        ("docs/design.md", "see [SECURITY.md](SECURITY.md)", "see [SECURITY.md](files/docs/SECURITY.md)"),
        ("docs/design.md", "see [../README.md](../README.md#use-it)", "see [Rollstream](overview.md#use-it)"),
        ("docs/a.md", "[rooms](../worker)", "rooms"),
        ("docs/a.md", "[here](#there)", "[here](#there)"),
        ("docs/api/x.md", "[up](../a.md)", "[up](../a.md)"),
        ("README.md", "![see](docs/images/cpu.png)", "![see](files/docs/images/cpu.png)"),
        (
            "README.md",
            "[b](docs/a.md) and [c](https://example.org/a.md)",
            "[b](a.md) and [c](https://example.org/a.md)",
        ),
    ],
)
def test_a_link_is_written_as_the_site_needs_it(document: str, text: str, there: str) -> None:
    written, files = for_the_site(text, document, PLACES, ROOT)

    assert written == there
    assert files == {word.removeprefix("files/") for word in re.findall(r"\((files/[^)]*)\)", there)}


@pytest.mark.large
@pytest.mark.timeout(600)
def test_the_site_is_built_without_a_warning() -> None:
    make = ["make", "--old-file=setup", "docs"]  # the tests run in an environment that is set up
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)

    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / "build" / "site"
    assert 'id="rollstream.AsyncClient.submit"' in (site / "api" / "client" / "index.html").read_text()
    assert "--max-num-seqs" in (site / "commands" / "rollstream-worker" / "index.html").read_text()
