"""Which failures of a first connection no retry can mend, and what to do about each."""

from __future__ import annotations

import errno
import resource
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from redis import exceptions

from rollstream.transport.redis.faults import text_of
from rollstream.transport.redis.urls import CLUSTER_PREFIXES, RedisUrl

from .redis_tls import speaks_plainly, speaks_tls

_HOPELESS = (
    (("NOAUTH", "WRONGPASS", "without any password", "invalid username-password", "Authentication required"),
     "check the user and the password in the URL"),
    (("DB index is out of range", "invalid DB index"), "this Redis has no such database: name a lower one"),
    (("SELECT is not allowed in cluster mode",), f"it is a node of a Redis Cluster: write {CLUSTER_PREFIXES}"),
    (("cluster support disabled",), "it is no Redis Cluster: write redis:// or rediss://"),
    (("CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_HANDSHAKE_FAILURE"),
     "it wants a certificate of ours that it trusts: ssl_certfile and ssl_keyfile in the URL"),
    (("unknown command", "NOPERM", "no permission"), "a worker needs this command: ask this Redis' administrator"),
)  # fmt: skip
"""Words of replies that no retry can change, and what to do."""
_PASSING = (
    (("max number of clients",), "raise its maxclients, or end some of its clients"),
    (("Name or service not known", "name resolution", "nodename nor servname"), "does the name resolve here (yet)?"),
    (("No such file",), "nothing listens at that path (yet)"),
)


def explained(error: BaseException) -> str:
    """The error's text, with what to do about it if that is known."""
    text = text_of(error)
    advice = _advice(text, _PASSING)
    return f"{text}: {advice}" if advice else text


async def why_hopeless(error: BaseException, place: RedisUrl) -> str | None:
    """Why no later try can succeed; None if one may."""
    text = str(error)
    if advice := _advice(text, _HOPELESS):
        return f"{text}: {advice}"
    if found := next(filter(None, (_of_system(cause, place) for cause in _causes(error))), None):
        return found
    if place.path and _is_other(Path(place.path)):
        return "there is something else than a socket"
    if place.nodes and isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        return await _wrong_tongue(place)
    return None


def _of_system(cause: BaseException, place: RedisUrl) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({cause.verify_message}): see ssl_ca_certs in the URL"
    number = cause.errno if isinstance(cause, OSError) else None
    if number in {errno.EMFILE, errno.ENFILE}:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may open no more files: raise `ulimit -n`, which is {limit}"
    if number in {errno.EACCES, errno.EPERM} and place.path:
        return "this user may not write to that socket: see Redis' unixsocketperm"
    return None


async def _wrong_tongue(place: RedisUrl) -> str | None:
    """Whether the server speaks TLS and the URL does not, or the reverse: both look like a broken connection."""
    for node in place.nodes:
        if place.is_tls and await speaks_plainly(node):
            return f"it speaks no TLS: write {place.scheme.replace('rediss', 'redis')}://"
        if not place.is_tls and await speaks_tls(node):
            return f"it speaks TLS: write {place.scheme.replace('redis', 'rediss')}://"
    return None


def _advice(text: str, table: tuple[tuple[tuple[str, ...], str], ...]) -> str | None:
    return next((advice for words, advice in table if any(word.lower() in text.lower() for word in words)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the errors from which it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_other(path: Path) -> bool:
    try:
        return not stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
