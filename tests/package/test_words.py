"""Names, docstrings, messages and documents are plain English: no archaic words, and no docstring begins with "Of"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.worker_process import ROOT

ARCHAIC = re.compile(
    r"(?<![a-z])(lest|anew|heed(s|ed|ing)?|whomever|whoever|whence|thereof|that[ _]which)(?![a-z])", re.IGNORECASE
)
FOLDERS = (
    "benchmarks",
    "deploy",
    "docs",
    "examples",
    "producer",
    "rollstream",
    "schemas",
    "tests",
    "tools",
    "transport",
    "worker",
)
KINDS = (".py", ".md", ".lua", ".sh", ".html", ".yml")


def texts() -> list[Path]:
    """Files that people read, without this one."""
    below = [path for folder in FOLDERS for kind in KINDS for path in (ROOT / folder).rglob(f"*{kind}")]
    return [path for path in (*ROOT.glob("*.md"), *below) if path != Path(__file__)]


def test_no_text_uses_archaic_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ARCHAIC.search(line)
    ]

    assert not found, "\n".join(found)


def test_no_docstring_begins_with_of() -> None:
    """Also the strings below constants and fields: what they describe must be their first word."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in texts()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if node.value.value.startswith("Of ")
    ]

    assert not found, "\n".join(found)
