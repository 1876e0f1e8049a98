"""Make texts from others safe for terminals and logs: no control characters, and no login of a URL."""

from __future__ import annotations

import re

_REDIS = re.compile(r"\b((?:rediss?(?:\+cluster|\+sentinel)?|unix)://)\S*@")
_OTHER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@]*@")
_OPTION = re.compile(r"([?&](?:(?:sentinel_)?(?:username|password)|ssl_password)=)[^&\s]*")


def printable(text: str) -> str:
    """`text` on one line; characters that a terminal would obey, or that hide text, become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same, but lines are kept, for texts of several lines."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException, most: int = 500) -> str:
    """What an error of a library says, without the stack below it: its first line, and what follows a colon at the end
    of that. `...` stands for what is left out beyond `most` characters."""
    told = ""
    for line in str(error).split("\n"):
        told = f"{told} {line.strip()}".strip()
        if told and not told.endswith(":"):
            break
    return told if len(told) <= most else f"{told[:most]}..."


def without_credentials(text: str) -> str:
    """`text` with the login of every URL hidden; for Redis URLs even a login that is not percent-encoded."""
    if "://" not in text:
        return text
    return _OPTION.sub(r"\1***", _OTHER.sub(r"\1***@", _REDIS.sub(r"\1***@", text)))
