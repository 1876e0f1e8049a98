"""Links of a document as they must be in the site, and what they point at; looks only at which files exist."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"(?P<head>!?\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\])\((?P<target>[^()\s]+)\)")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*:|//)")
FILES = "files"
"""Folder of the site with files of the repository that a page links to."""


class Link(NamedTuple):
    """A link to something in the repository."""

    path: str
    """From the repository's root; of the document itself for a mere anchor."""
    anchor: str
    """Without the hash; empty for none."""


def links(text: str, document: str) -> Iterator[Link]:
    """The links of a document, which is at `document` below the root, that leave out other hosts. Code has none."""
    for found in _LINK.finditer(without_code(text)):
        if not _SCHEME.match(found["target"]):
            path, _, anchor = found["target"].partition("#")
            yield Link(_from_root(path, document) if path else document, anchor)


def for_the_site(text: str, document: str, pages: Mapping[str, str], root: Path) -> tuple[str, set[str]]:
    """The text with links that work in the site, and the files that the site must have for them.

    `pages`: the page of each document, both by their paths. What is no page is a file below `FILES`; a link to a folder
    becomes its text. A link to a page whose text is its path has the page's title for a text.
    """
    files: set[str] = set()
    here = posixpath.dirname(pages[document])

    def moved(found: re.Match[str]) -> str:
        path, mark, anchor = found["target"].partition("#")
        if _SCHEME.match(found["target"]) or not path:
            return found[0]
        place = _from_root(path, document)
        if (root / place).is_dir():
            return found["text"]
        if place not in pages:
            files.add(place)
        page = pages.get(place, f"{FILES}/{place}")
        head = f"[{_title(root / place)}]" if place in pages and found["text"] == path else found["head"]
        return f"{head}({posixpath.relpath(page, here or '.')}{mark}{anchor})"

    return _outside_code(text, moved), files


def _title(document: Path) -> str:
    return next(line for line in document.read_text().splitlines() if line.startswith("# ")).removeprefix("# ")


def _from_root(path: str, document: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), path))


def _code(text: str) -> list[tuple[int, int]]:
    """Where code is: fences, and spans outside them."""
    fences = [found.span() for found in _FENCE.finditer(text)]
    bare = _blanked(text, fences)
    return sorted([*fences, *(found.span() for found in _CODE.finditer(bare) if "\n\n" not in found[0])])


def _blanked(text: str, places: list[tuple[int, int]]) -> str:
    for begin, end in places:
        text = text[:begin] + re.sub(r"[^\n]", " ", text[begin:end]) + text[end:]
    return text


def without_code(text: str) -> str:
    """The text with blanks for code; the text of a link may be code, and its target is what matters."""
    return _blanked(text, _code(text))


def _outside_code(text: str, moved: Callable[[re.Match[str]], str]) -> str:
    """The text with `moved` in the place of each link that is not within code; a link's own text may be code."""
    parts, done = [], 0
    for found in _LINK.finditer(without_code(text)):
        if whole := _LINK.match(text, found.start()):
            parts += [text[done : found.start()], moved(whole)]
            done = whole.end()
    return "".join([*parts, text[done:]])
