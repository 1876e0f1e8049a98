"""Refuse, before any command runs, a misspelled variable and a Redis URL in the wrong place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rollstream.schemas.environment import UnknownVariableError, check_environment

_REDIS_URL = re.compile(r"(rediss?(\+cluster)?|unix)://")


def usage_problem(words: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """What is wrong with a command line or its environment variables; None if nothing is, or help is asked for.

    A Redis URL without its flag would be shown in an error with its password; an unknown variable would be ignored.
    """
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
