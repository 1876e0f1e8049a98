"""Where weights are kept, for logs and errors. Pure."""

from __future__ import annotations

from pathlib import Path

from ..printable import printable


def without_secrets(place: str | Path) -> str:
    """`place` for logs and errors: a URL without login, options and fragment."""
    scheme, found, rest = str(place).partition("://")
    if not found:
        return printable(_without_login(str(place))[:200])
    before = rest.partition("?")[0].partition("#")[0]
    authority, slash, path = before.partition("/")
    login, at, host = before.rpartition("@") if "@" in path else authority.rpartition("@")
    tail = "" if "@" in path else slash + path
    return printable(f"{scheme.rpartition('@')[2][:40]}://{'***@' if at and login else ''}{host}{tail}"[:200])


def _without_login(place: str) -> str:
    """`place`, which may be a folder or a URL that was not written as one, such as `s3:/key:secret@bucket`."""
    if place.startswith("/") and ":" not in place:
        return place
    kept = place.partition("?")[0] if ":" in place else place
    return f"***@{kept.rpartition('@')[2]}" if "@" in kept else kept
