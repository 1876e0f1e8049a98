"""What a Redis is reached with: its URL, and beside it certificates, a password file and how many replicas to wait for.

Pure: files are only named here; `way` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .urls import SENTINEL_FORM, RedisUrl, RedisUrlError, parse, without_password

DEFAULT_URL = "redis://127.0.0.1:6379/0"

File = str | os.PathLike[str]

_TLS_FILES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
"""What the URL calls each file."""
_CAS = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")
MOST_REPLICAS = 100


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RedisAccess:
    """How to reach one Redis, or one cluster. Its `str()` and `repr()` have no credentials.

    `ca`, `cert`, `key`: PEM files for `rediss://`; the same may stand in the URL. `password_file`: it holds the
    password, and is read for every new connection; `sentinel_password_file`: the same for the Sentinels. `wait`:
    replicas that must have a write before it counts.
    """

    url: str = field(default=DEFAULT_URL)
    ca: File | None = None
    cert: File | None = None
    key: File | None = None
    password_file: File | None = None
    sentinel_password_file: File | None = None
    wait: int = 0

    @classmethod
    def of(cls, given: str | RedisAccess, **beside: Any) -> RedisAccess:
        """`given`, with `beside` it what a caller named by arguments of its own. Raises `RedisUrlError` for both."""
        named = {name: value for name, value in beside.items() if value}
        if not isinstance(given, RedisAccess):
            return cls(url=given, **named)
        for name, value in named.items():
            if getattr(given, name) not in {None, 0, value}:
                raise given.refusal(f"redis_{name} is given twice", "give it once")
        return replace(given, **named)

    def __str__(self) -> str:
        return without_password(self.url)

    def __repr__(self) -> str:
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "url"}
        beside = "".join(f", {name}={str(value)!r}" for name, value in named.items() if value)
        return f"RedisAccess(url={str(self)!r}{beside})"

    def place(self) -> RedisUrl:
        """The URL, read, with the files among its options. Raises `RedisUrlError`, also if they contradict it."""
        found = parse(self.url)
        if problem := next(self._problems(found), None):
            raise self.refusal(*problem)
        return replace(found, options={**found.options, **self._named()})

    def refusal(self, problem: str, advice: str) -> RedisUrlError:
        """The error that says what is wrong with this way to Redis."""
        return RedisUrlError(str(self), problem, advice)

    def called(self, option: str) -> str:
        """What the caller calls an option of TLS: `ssl_ca_certs` if it stands in the URL, else `redis_ca`."""
        if f"{option}=" in self.url:
            return option
        return next((f"redis_{name}" for name, theirs in _TLS_FILES.items() if theirs == option), option)

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def _named(self) -> Mapping[str, str]:
        return {option: os.fspath(getattr(self, name)) for name, option in _TLS_FILES.items() if self._has(name)}

    def _problems(self, found: RedisUrl) -> Iterator[tuple[str, str]]:
        """What is wrong with all of it together, each with what to do."""
        yield from self._of_certificates(found)
        yield from self._of_passwords(found)
        if isinstance(self.wait, bool) or not isinstance(self.wait, int) or not 0 <= self.wait <= MOST_REPLICAS:
            yield f"redis_wait is no number of replicas from 0 to {MOST_REPLICAS}", "give 1 to wait for one replica"

    def _of_certificates(self, found: RedisUrl) -> Iterator[tuple[str, str]]:
        for name, option in _TLS_FILES.items():
            if not self._has(name):
                continue
            if not found.is_tls:
                yield f"redis_{name} is for TLS, which this URL does not ask for", "write rediss://, or leave it out"
            if found.options.get(option, self._named()[option]) != self._named()[option]:
                yield f"redis_{name} and {option} in the URL name different files", "give one of them"
        given = {**found.options, **self._named()}
        if found.is_unchecked and (believed := next((name for name in _CAS if name in given), None)):
            problem = f"ssl_cert_reqs=none believes anybody, and {self.called(believed)} says whom to believe"
            yield problem, "leave ssl_cert_reqs out"
        if {"ssl_keyfile"} == given.keys() & {"ssl_keyfile", "ssl_certfile"}:
            yield f"{self.called('ssl_keyfile')} is a key without its certificate", "give redis_cert too"

    def _of_passwords(self, found: RedisUrl) -> Iterator[tuple[str, str]]:
        if self._has("password_file") and found.options.get("password"):
            yield "there is a password in the URL and a redis_password_file", "give one of them"
        if self._has("sentinel_password_file"):
            if not found.is_sentinel:
                problem = "redis_sentinel_password_file is for Sentinels, which this URL does not name"
                yield problem, f"write {SENTINEL_FORM}, or leave it out"
            if "password" in found.sentinel_login:
                yield "there is a sentinel_password in the URL and a redis_sentinel_password_file", "give one of them"
