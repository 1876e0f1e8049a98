"""The TLS of connections to Redis: certificates are read when a connection is made, so that they may be renewed."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping
from typing import Any

from redis.asyncio import SSLConnection
from redis.asyncio.connection import RedisSSLContext

from .access import RedisAccess
from .urls import RedisUrl

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")
_TO_DO = {
    "KEY_VALUES_MISMATCH": ("the key does not fit the certificate", "name the key that the certificate was made for"),
    "NO_CERTIFICATE_OR_CRL_FOUND": ("it holds no certificate", "name a PEM file with certificates"),
    "NO_START_LINE": ("it holds no certificate", "name a PEM file with certificates"),
}
"""OpenSSL's reasons that have words of ours."""

UNCHECKED = "its certificate is not checked: any server there gets the password and all jobs"
CHECK = "leave ssl_cert_reqs out, and name the CA that signed its certificate (redis_ca)"

_told: set[str] = set()
"""The Redis of which a warning was logged: one process makes several clients."""

log = logging.getLogger("rollstream")


class TlsContext(RedisSSLContext):
    """One context for all connections of a client, made again once a file is another one or has changed.

    With CAs of one's own only these are trusted; redis-py would trust the system's too.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        named = {name.removeprefix("ssl_"): value for name, value in options.items()}
        super().__init__(**{"cert_reqs": "required", "check_hostname": True, **named})
        self._files = [options[name] for name in _FILES if name in options]
        self._stamps: list[object] = []

    def get(self) -> ssl.SSLContext:
        """The context. Raises `OSError`, which `ssl.SSLError` is, for files that cannot be used."""
        stamps = [_stamp(path) for path in self._files]
        if self.context is None or stamps != self._stamps:
            self.context = self._made()
            self._stamps = stamps
        return self.context

    def _made(self) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.ca_certs, capath=self.ca_path, cadata=self.ca_data)
        made.check_hostname = self.check_hostname
        made.verify_mode = ssl.VerifyMode(self.cert_reqs)
        if self.certfile or self.keyfile:
            # Without a password OpenSSL asks the terminal for that of an encrypted key, and waits.
            made.load_cert_chain(self.certfile or "", self.keyfile, self.password or "")
        return made


class TlsConnection(SSLConnection):
    """A connection that takes its context from `TlsContext`."""

    def __init__(self, *, tls: TlsContext, **settings: Any) -> None:
        super().__init__(**settings)
        self.ssl_context = tls


def checked_context(access: RedisAccess, options: Mapping[str, Any]) -> TlsContext:
    """A context that was made once. Raises `RedisUrlError`, which names the file that cannot be used and says why."""
    for name in _FILES:
        if name in options:
            _check_file(access, f"{access.called(name)}={options[name]}", options[name])
    context = TlsContext(options)
    try:
        context.get()
    except (OSError, ValueError, TypeError) as error:
        raise access.refusal(*_explained(access, options, error)) from None
    return context


def warn_if_unchecked(place: RedisUrl) -> None:
    """Log a warning, once, if the URL turns the checks of Redis' certificate off."""
    if place.is_unchecked and str(place) not in _told:
        _told.add(str(place))
        log.warning("redis at %s: ssl_cert_reqs=none, so %s; %s", place, UNCHECKED, CHECK)


def _check_file(access: RedisAccess, shown: str, path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a plain path of the operator's
            file.read(1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "no path"
        raise access.refusal(f"{shown}: {problem}", "name a PEM file that can be read") from None


def _explained(access: RedisAccess, options: Mapping[str, Any], error: Exception) -> tuple[str, str]:
    what = ", ".join(access.called(name) for name in options if name != "ssl_password") or "TLS"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "they do not fit together"
    key = options.get("ssl_keyfile") or options.get("ssl_certfile")
    if reason in _TO_DO:
        problem, advice = _TO_DO[reason]
        return f"{what}: cannot be used: {problem}", advice
    if key and _is_encrypted(key):
        wrong = "the password of the key is wrong" if options.get("ssl_password") else "the key is encrypted"
        advice = "write ssl_password= into the URL, or give a key without a password"
        return f"{what}: cannot be used: {wrong}", advice
    return f"{what}: cannot be used: {reason}", "check the files"


def _is_encrypted(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - a plain path of the operator's
        held = file.read(1 << 20)
    return any(mark in held for mark in _ENCRYPTED)


def _stamp(path: str) -> object:
    """What tells one state of a file from another: Kubernetes changes a link, others the file."""
    found = os.stat(path)  # noqa: PTH116 - a plain path of the operator's
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
