"""Make texts for people safe: without secrets of the settings, and without control characters for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rollstream.schemas.printable import printable, printable_lines, without_credentials
from rollstream.transport.redis.password_file import PasswordFileError, read_password
from rollstream.transport.redis.urls import RedisUrlError, parse

from ..config import WorkerSettings

HIDDEN = "***"
_SECRET_WORDS = frozenset({
    "token", "secret", "secrets", "password", "passwd", "passphrase", "key", "keys", "apikey", "credential",
    "credentials", "auth", "authorization",
})  # fmt: skip
_WORDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
_SHORTEST = 4
"""The shortest secret to search for in texts: a shorter one would hide parts of words."""


def is_secret(name: str) -> bool:
    """Whether an engine argument of this name, such as `hf_token` or `api_key`, must not be shown."""
    return not _SECRET_WORDS.isdisjoint(word.lower() for word in _WORDS.split(name))


def without_secrets(value: Any) -> Any:
    """A copy of a JSON value with `***` instead of secrets at any depth."""
    if isinstance(value, Mapping):
        return {name: (_hidden if is_secret(str(name)) else without_secrets)(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return without_credentials(value) if isinstance(value, str) else value


class Redaction:
    """Knows the secrets of a worker's settings and hides them in any text of vLLM, Redis or Python."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._files = [file for file in (settings.redis_password_file, settings.redis_sentinel_password_file) if file]
        self._states: list[object] = []
        self._secrets: list[str] = []
        self._hide({*_of_url(settings.redis), *_of_arguments(settings.engine_args)})

    def line(self, text: str) -> str:
        """Text for a table, a log line or an error of one line."""
        return printable(self._without(text))

    def lines(self, text: str) -> str:
        """Text of several lines, such as a traceback."""
        return printable_lines(self._without(text))

    def _hide(self, found: Iterable[str]) -> None:
        """From now on these too: a password that was replaced may still stand in a text."""
        known = {*self._secrets, *(secret for secret in found if len(secret) >= _SHORTEST)}
        self._secrets = sorted(known, key=len, reverse=True)

    def _look_at_files(self) -> None:
        states = [_state(file) for file in self._files]
        if states != self._states:
            self._states = states
            self._hide(secret for file in self._files for secret in _of_file(file))

    def _without(self, text: str) -> str:
        self._look_at_files()
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return without_credentials(text)


def _hidden(value: Any) -> Any:
    """`***`; but true, false and null tell nothing and stay."""
    return value if value is None or isinstance(value, bool) else HIDDEN


def _of_url(url: str) -> Iterator[str]:
    try:
        found = parse(url)
    except RedisUrlError:
        return
    options, of_sentinels = found.options, found.sentinel_login.get("password")
    written = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    for secret in (options.get("password"), options.get("ssl_password"), of_sentinels, written, unquote(written)):
        if secret:
            yield str(secret)


def _of_file(path: Path) -> Iterator[str]:
    """The password that the file has now."""
    with suppress(PasswordFileError):
        yield read_password(path)


def _state(path: Path) -> object:
    """What changes when the file does; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _of_arguments(value: Any, secret: bool = False) -> Iterator[str]:
    """All texts below a secret name, in lists and mappings of any depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _of_arguments(inner, secret or is_secret(str(name)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _of_arguments(inner, secret)
    elif secret and isinstance(value, str):
        yield value
