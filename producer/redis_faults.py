"""What a fault of Redis means for a producer: whether it passes, whether Redis was there, what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from redis import exceptions


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: redis-py's classes for it, and the reply codes that it may leave without a class."""

    classes: tuple[type[Exception], ...]
    codes: frozenset[str]
    passes: bool
    """Whether the same command may be answered later."""
    advice: str


AWAY = Fault(
    (exceptions.ConnectionError, exceptions.TimeoutError),
    frozenset(),
    True,
    "check the address and that the server runs",
)
_REFUSED = Fault((), frozenset(), False, "it is there, but refused the command; Rollstream needs Redis 6.2 or newer")
_FAULTS = (
    Fault(
        (exceptions.AuthenticationError, exceptions.AuthorizationError),
        frozenset({"NOAUTH", "WRONGPASS"}),
        False,
        "check the user and the password in the URL",
    ),
    Fault(
        (exceptions.NoPermissionError,),
        frozenset({"NOPERM"}),
        False,
        "give this user the command and the keys rs:*; `ACL LOG` in Redis names what was refused",
    ),
    Fault(
        (exceptions.MovedError,),
        frozenset({"MOVED", "CROSSSLOT"}),
        False,
        "it is a node of a Redis Cluster: write redis+cluster:// or rediss+cluster://",
    ),
    Fault((exceptions.OutOfMemoryError,), frozenset({"OOM"}), True, "raise its maxmemory or remove old batches"),
    Fault(
        (),
        frozenset({"WRONGTYPE"}),
        False,
        "something else wrote this policy's keys; use another policy or another database",
    ),
    Fault(
        (
            exceptions.BusyLoadingError,
            exceptions.ReadOnlyError,
            exceptions.TryAgainError,
            exceptions.ClusterError,
            exceptions.AskError,
        ),
        frozenset(
            {
                "BUSY",
                "LOADING",
                "READONLY",
                "TRYAGAIN",
                "NOREPLICAS",
                "MISCONF",
                "CLUSTERDOWN",
                "MASTERDOWN",
            }
        ),
        True,
        "it is there, but cannot serve now; see its log",
    ),
    AWAY,  # after those that redis-py derives from a lost connection
)
# Redis 6.2 wraps the reply to a command inside a script: "Error running script (...): @user_script:14: -OOM ...", and
# "...: @user_script:14: WRONGTYPE ..."
_CODE = re.compile(r"(?:^|: ?-|@user_script:\d+: )([A-Z]+) ")

_DENIED_IN_SCRIPT = re.compile(r"ACL failure in script|The user executing the script can't (?:run|access)")
"""What Redis 7 and 8, and 6.2, say instead of a code."""


def fault_of(error: BaseException | None) -> Fault:
    """The first kind that fits, by class or by reply code."""
    found = _CODE.search(str(error))
    code = "NOPERM" if _DENIED_IN_SCRIPT.search(str(error)) else found[1] if found else ""
    return next((fault for fault in _FAULTS if isinstance(error, fault.classes) or code in fault.codes), _REFUSED)
