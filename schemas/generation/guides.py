"""What is wrong with a guide that no worker could follow. Pure: nothing is compiled, and nothing is fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import shown

MAX_DEPTH = 64
"""Most objects and arrays of a JSON schema that lie in one another."""

_REFERENCES = "$ref", "$dynamicRef", "$recursiveRef"
_RULE = re.compile(r"^\s*root\s*::=", re.MULTILINE)


def guide_problem(way: str, text: str) -> str | None:
    """What is wrong with the text of a guide (`way` as in `Guided`), as far as it is known without compiling it."""
    if "\0" in text:
        return "has a NUL character, which no text matches"
    if way == "json_schema":
        return _schema_problem(text)
    if way == "grammar" and _RULE.search(text) is None:
        return "has no rule root (`root ::= ...`), which is the whole text"
    return None


def _schema_problem(text: str) -> str | None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {shown(str(error) if isinstance(error, ValueError) else 'it is too deep')}"
    if not isinstance(schema, dict | bool):
        return f"is a JSON {type(schema).__name__}, not a schema: write an object"
    for depth, part in _walk(schema):
        if depth > MAX_DEPTH:
            return f"has more than {MAX_DEPTH} objects and arrays in one another"
        for name in _REFERENCES:
            target = part.get(name) if isinstance(part, dict) else None
            if isinstance(target, str) and not target.startswith("#"):
                return f"refers to {shown(target)}, and nothing is fetched: write `#/...`, a place inside it"
    return None


def _walk(schema: Any) -> Iterator[tuple[int, Any]]:
    """Each object and array, with how deep it lies; not by recursion, which a hostile text would exhaust."""
    left = [(1, schema)]
    while left:
        depth, part = left.pop()
        yield depth, part
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        left += [(depth + 1, one) for one in inner if isinstance(one, dict | list)]
