"""What goes wrong between us, the Sentinels and the primary that they name. All are redis-py's lost connections.

So who waits for a lost connection waits for these too; `faults` says which of them pass.
"""

from __future__ import annotations

from typing import Any, ClassVar

from redis import exceptions


class SentinelError(exceptions.ConnectionError):
    """Base of the errors below. `service` is what the Sentinels call the servers; the text has no credentials."""

    advice: ClassVar[str] = "see the Sentinels' log"
    passes: ClassVar[bool] = True
    """Whether to wait and ask again."""

    def __init__(self, service: str, problem: str) -> None:
        super().__init__(problem)
        self.service = service
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.service, self.problem), vars(self)


class SentinelsAwayError(SentinelError):
    """Raised when no Sentinel of the URL answers."""

    advice = "check the Sentinels' addresses, and that they run"


class NotASentinelError(SentinelError):
    """Raised when what answers at the Sentinels' addresses is something else, such as the Redis itself."""

    advice = "name the Sentinels, whose port is 26379 as a rule, or write redis://"
    passes = False


class SentinelLoginError(SentinelError):
    """Raised when the Sentinels refuse our login, or want one."""

    advice = (
        "give the Sentinels' own login: ?sentinel_username=... in the URL, and redis_sentinel_password_file, or "
        "sentinel_password=... in the URL"
    )
    passes = False


class SentinelPasswordFileError(SentinelLoginError):
    """Raised when the Sentinels refuse the password that our file for them holds, or it holds none."""

    advice = "check the Sentinels' user, and the password in redis_sentinel_password_file, which is read again"
    passes = True  # the file may be a moment behind the Sentinels, or ahead of them


class UnknownServiceError(SentinelError):
    """Raised when the Sentinels watch no service of that name."""

    advice = "name the service as `sentinel monitor` in the Sentinels' configuration does"
    passes = False


class NoPrimaryError(SentinelError):
    """Raised when the Sentinels say that the primary is down, and have promoted no replica yet."""

    advice = "it takes a majority of the Sentinels and a replica to promote one: see the Sentinels' log"


class SentinelsDisagreeError(SentinelError):
    """Raised when the Sentinels name different primaries, and none of these is named by more than half of them."""

    advice = (
        "after a failover this passes within seconds; else one of them was cut off, watches another Redis or lies: "
        "see SENTINEL MASTER at each"
    )


class NotPrimaryError(SentinelError):
    """Raised when the server that the Sentinels call the primary says that it is a replica."""

    advice = "see the Sentinels' log, or promote it: SENTINEL FAILOVER"


SENTINEL_ERRORS: tuple[type[SentinelError], ...] = (
    SentinelsAwayError,
    NotASentinelError,
    SentinelPasswordFileError,
    SentinelLoginError,
    UnknownServiceError,
    NoPrimaryError,
    SentinelsDisagreeError,
    NotPrimaryError,
)
