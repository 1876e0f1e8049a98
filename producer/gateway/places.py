"""Texts of workers and of Redis, as a client may read them: without addresses, folders and names of workers. Pure."""

from __future__ import annotations

import re

_HIDDEN = "..."
_URL = r"\b[a-z][a-z0-9+.-]*://[^\s'\",;)\]]+"
_NUMBERED = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*\](?::\d+)?"
_NAMED = r"(?<![\w.])[a-zA-Z][\w.-]*:\d{4,5}\b"
_FILE = r"(?<![\w#$/.~])~?/(?!v1/)(?:[^\s/'\",;:)\]]+/)+[^\s/'\",;:)\]]*"
_OBJECT = r"(?<= at )0x[0-9a-f]+"
_PLACE = re.compile("|".join((_URL, _NUMBERED, _NAMED, _FILE, _OBJECT)))


def without_places(text: str, worker: str = "") -> str:
    """The text with `...` for URLs, addresses, absolute paths, and the name of the worker that said it."""
    if worker:
        text = re.sub(rf"(?<![\w-]){re.escape(worker)}(?![\w-])", "a worker", text)
    return _PLACE.sub(_HIDDEN, text)
