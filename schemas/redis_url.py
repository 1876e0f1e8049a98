"""A Redis URL is shown without its credentials, and without the query that may hold them."""

from __future__ import annotations

import re


def without_password(url: str) -> str:
    """`url` for logs and errors; whatever stands before the last @ is hidden, slashes in a password included."""
    return re.sub(r"^([a-z+]+://)?.*@", r"\1***@", url.partition("?")[0])
