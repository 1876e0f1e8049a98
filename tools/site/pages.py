"""Which document becomes which page of the site, and all that mkdocs needs in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from .api_pages import PAGES, api_pages
from .command_pages import ROLLSTREAM, WORKER, command_pages
from .links import FILES, for_the_site

ROOT = Path(__file__).parents[2]
DOCS = "docs"
AT_THE_ROOT = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Documents beside `docs/`, and their pages."""


def documents(root: Path = ROOT) -> dict[str, str]:
    """The page of each document, both by their paths: from the root, and in the site."""
    below = {f"{DOCS}/{path.relative_to(root / DOCS)}": str(path.relative_to(root / DOCS)) for path in _written(root)}
    return {**AT_THE_ROOT, **dict(sorted(below.items()))}


def generated() -> dict[str, str]:
    """The pages that no document is behind, by where documents in `docs/` expect them."""
    return {f"{DOCS}/{page}": page for page in (ROLLSTREAM, WORKER, *(f"api/{name}.md" for name in PAGES))}


def write(target: Path, root: Path = ROOT) -> list[str]:
    """Write all pages, images and linked files below `target`, which becomes theirs alone. Returns the pages' paths."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pages, files = documents(root), set[str]()
    targets = {**pages, **generated()}
    for document, page in pages.items():
        text, linked = for_the_site((root / document).read_text(), document, targets, root)
        _put(target / page, text)
        files |= linked
    for page, text in {**command_pages(), **api_pages()}.items():
        _put(target / page, text)
    for name in files:
        _copy(root / name, target / FILES / name)
    _copy(root / DOCS / "site.css", target / "site.css")
    return sorted(str(path.relative_to(target)) for path in target.rglob("*.md"))


def _written(root: Path) -> list[Path]:
    return sorted((root / DOCS).rglob("*.md"))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
