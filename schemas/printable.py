"""What others wrote is shown on one line: characters that a terminal obeys, or that hide text, become escapes."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"\b((?:rediss?(?:\+cluster)?|unix)://)\S*@")
_OPTIONS = re.compile(r"([?&](?:username|password|ssl_password)=)[^&\s]*")


def printable(text: str) -> str:
    """`text` with what a terminal would obey written as escapes, line breaks too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same, its lines kept: for what was written as several of them."""
    return "\n".join(map(printable, text.split("\n")))


def without_credentials(text: str) -> str:
    """`text` with the login of every Redis URL in it hidden."""
    if "://" not in text:
        return text
    return _OPTIONS.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))
