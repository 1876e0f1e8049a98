"""The one error of all weight stores. It shows no login, no key and no signed part of a URL."""

from __future__ import annotations

import errno
import os
from enum import StrEnum

from rollstream.schemas.errors import RollstreamError, cut
from rollstream.schemas.weights.regular_files import NotRegularFileError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class StoreProblem(StrEnum):
    """What went wrong, for code that decides what to do."""

    PLACE = "place"
    """The URL or the folder cannot be a store."""
    MISSING = "missing"
    AWAY = "away"
    """It cannot be reached just now, or not in time."""
    FULL = "full"
    REFUSED = "refused"
    """Its user may not do this."""
    BROKEN = "broken"
    """What it holds is not what was announced."""


ADVICE = {
    StoreProblem.MISSING: "it was removed, or expired; the next anchor brings all weights",
    StoreProblem.AWAY: "check that the store can be reached from this machine",
    StoreProblem.FULL: "make room in the store",
    StoreProblem.REFUSED: "give this user the right to read and write there",
    StoreProblem.BROKEN: "the next anchor brings all weights",
}


class WeightStoreError(RollstreamError):
    """Raised when a weight store cannot be used, or does not hold what it should.

    `where` is the store without secrets, `what` what was tried.
    """

    def __init__(self, what: str, where: str, problem: str, reason: StoreProblem, advice: str = "") -> None:
        super().__init__(cut(f"cannot {what}: weight store {where}: {problem}; {advice or ADVICE[reason]}"))
        self.what = what
        self.where = where
        self.problem = problem
        self.reason = reason

    @property
    def passes(self) -> bool:
        """Whether the same may succeed later without anybody doing anything."""
        return self.reason is StoreProblem.AWAY


def store_error(what: str, where: str, error: BaseException) -> WeightStoreError:
    """The error for one of Python, of a file system or of a library for object stores.

    Of the last only the class is told: their texts may hold signed URLs and keys.
    """
    if isinstance(error, NotRegularFileError):
        return WeightStoreError(what, where, str(error.strerror), StoreProblem.BROKEN)
    if isinstance(error, TimeoutError):
        return WeightStoreError(what, where, "it did not answer in time", StoreProblem.AWAY)
    number = error.errno if isinstance(error, OSError) else None
    told = type(error).__name__ if number is None else os.strerror(number)
    return WeightStoreError(what, where, told, _reason(error, number))


def _reason(error: BaseException, number: int | None) -> StoreProblem:
    if isinstance(error, FileNotFoundError):
        return StoreProblem.MISSING
    if number in _FULL:
        return StoreProblem.FULL
    if isinstance(error, PermissionError) or number in _REFUSED:
        return StoreProblem.REFUSED
    return StoreProblem.AWAY
