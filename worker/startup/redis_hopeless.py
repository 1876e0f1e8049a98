"""Which failures of a first connection no retry can mend, and what to do about each."""

from __future__ import annotations

import errno
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

from redis import exceptions

from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.faults import NO_CLUSTER, NO_DATABASE, OF_CLUSTER, fault_of, text_of
from rollstream.transport.redis.sentinel_errors import SentinelError, SentinelLoginError
from rollstream.transport.redis.tls_problems import tls_problem
from rollstream.transport.redis.urls import RedisUrl

_HOPELESS = frozenset({NO_DATABASE, OF_CLUSTER, NO_CLUSTER})
"""Faults of an address that no retry can change."""
_REFUSED = (
    (("unknown command", "NOPERM", "no permission"), "a worker needs this command: ask this Redis' administrator"),
)
"""Words of replies that no retry can change, and what to do."""
_LOGIN = ("NOAUTH", "WRONGPASS", "without any password", "invalid username-password", "Authentication required")
_PASSING = (
    (("max number of clients",), "raise its maxclients, or end some of its clients"),
    (("Name or service not known", "name resolution", "nodename nor servname"), "does the name resolve here (yet)?"),
    (("No such file",), "nothing listens at that path (yet)"),
)


def explained(error: BaseException) -> str:
    """The error's text, with what to do about it if that is known."""
    text = text_of(error)
    advice = error.advice if isinstance(error, SentinelError) else _advice(text, _PASSING)
    return f"{text}: {advice}" if advice else text


async def why_hopeless(error: BaseException, access: RedisAccess) -> str | None:
    """Why no later try can succeed; None if one may."""
    text, place = str(error), access.place()
    if isinstance(error, SentinelLoginError) or (isinstance(error, SentinelError) and not error.passes):
        return explained(error)
    if any(word.lower() in text.lower() for word in _LOGIN):
        where = "the URL" if access.password_file is None else str(access.password_file)
        return f"{text}: check the user and the password in {where}"
    fault = fault_of(error)
    advice = fault.advice if fault in _HOPELESS else _advice(text, _REFUSED)
    told = f"{text}: {advice}" if advice else None
    if found := next(filter(None, (told, *(_of_system(cause, place) for cause in _causes(error)))), None):
        return found
    if place.path and _is_other(Path(place.path)):
        return "there is something else than a socket"
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError) and (
        problem := await tls_problem(error, access)
    ):
        return f"{problem.text}: {problem.advice}"
    return None


def _of_system(cause: BaseException, place: RedisUrl) -> str | None:
    number = cause.errno if isinstance(cause, OSError) else None
    if number in {errno.EMFILE, errno.ENFILE}:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may open no more files: raise `ulimit -n`, which is {limit}"
    if number in {errno.EACCES, errno.EPERM} and place.path:
        return "this user may not write to that socket: see Redis' unixsocketperm"
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
