"""What was typed or set wrongly and would be lost, or shown with its password, is refused before any command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rollstream.schemas.environment import UnknownVariableError, check_environment

_REDIS_URL = re.compile(r"(rediss?(\+cluster)?|unix)://")


def usage_problem(words: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """What is wrong with a command line, or with the variables that it was typed under; help is there for everybody."""
    if not {"-h", "--help"}.isdisjoint(words):
        return None
    for before, word in zip(["", *words], words, strict=False):
        if _REDIS_URL.match(word) and not before.startswith("--"):
            return "there is a Redis URL without its flag: write it as --redis URL"
    try:
        check_environment(environment)
    except UnknownVariableError as error:
        return str(error)
    return None
