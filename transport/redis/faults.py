"""What an error of Redis means: may the same command work later, and what is to be done? One table, pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from redis import exceptions

from .confirmed import UnconfirmedError
from .password_file import PasswordFileError
from .sentinel_errors import SENTINEL_ERRORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, known by redis-py's classes, by reply codes, and by words if there is no code."""

    classes: tuple[type[Exception], ...]
    codes: frozenset[str]
    passes: bool
    """Whether to wait and repeat: the same command may be answered soon."""
    advice: str
    never: bool = False
    """Whether the command fails until somebody changes what the keys hold, or sends something else. A worker waits for
    all other faults to pass."""
    words: re.Pattern[str] | None = None

    def fits(self, error: BaseException | None, code: str) -> bool:
        """Whether `error`, whose reply has `code`, is of this kind."""
        return (
            isinstance(error, self.classes)
            or code in self.codes
            or (self.words is not None and self.words.search(str(error)) is not None)
        )


def _never(words: str, advice: str, *codes: str, classes: tuple[type[Exception], ...] = ()) -> Fault:
    return Fault(
        classes=classes, codes=frozenset(codes), passes=False, advice=advice, never=True, words=re.compile(words)
    )


AWAY = Fault(
    classes=(exceptions.ConnectionError, exceptions.TimeoutError),
    codes=frozenset(),
    passes=True,
    advice="check the address and that the server runs",
)
HUNG_UP = Fault(
    classes=(),
    codes=frozenset(),
    passes=True,
    advice="it hung up; see its log, and whether it has as many clients as its maxclients allows",
    words=re.compile(r"while writing to socket|Connection closed by server|Connection reset by peer|Connection lost"),
)
"""Redis closes a connection beyond its maxclients, often before its explanation arrives."""
OUT_OF_MEMORY = Fault(
    classes=(exceptions.OutOfMemoryError,),
    codes=frozenset({"OOM"}),
    passes=True,
    advice="raise its maxmemory or remove old batches",
)
CUT_OFF = Fault(
    classes=(),
    codes=frozenset(),
    passes=True,
    advice="it closed the connection on what was sent; see its log",
    words=re.compile(r"Protocol error"),
)
"""A reply after which Redis closes the connection. In a pipeline any command may get it; `Oversize` finds which."""
LOGIN = Fault(
    classes=(exceptions.AuthenticationError, exceptions.AuthorizationError),
    codes=frozenset({"NOAUTH", "WRONGPASS"}),
    passes=False,
    advice="check the user and the password in the URL",
)
_ENCRYPTION = (
    Fault(
        classes=(),
        codes=frozenset(),
        passes=True,
        advice="its certificate is not trusted here: see the file of its CA, its names and its last day",
        words=re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"),
    ),
    Fault(
        classes=(),
        codes=frozenset(),
        passes=True,
        advice="it wants a certificate of ours that it trusts: see redis_cert, redis_key, and the last day of either",
        words=re.compile(
            r"ALERT_(CERTIFICATE_\w+|UNKNOWN_CA|BAD_CERTIFICATE|HANDSHAKE_FAILURE|DECRYPT_ERROR|ACCESS_DENIED)"
            r"|UNSUPPORTED_CERTIFICATE"
        ),
    ),
)
NO_DATABASE = Fault(
    classes=(),
    codes=frozenset(),
    passes=False,
    advice="this Redis has no such database: name a lower one",
    words=re.compile(r"DB index is out of range|invalid DB index"),
)
OF_CLUSTER = Fault(
    classes=(exceptions.MovedError,),
    codes=frozenset({"MOVED", "CROSSSLOT"}),
    passes=False,
    advice="it is a node of a Redis Cluster: write redis+cluster:// or rediss+cluster://",
    words=re.compile(r"SELECT is not allowed in cluster mode"),
)
NO_CLUSTER = Fault(
    classes=(),
    codes=frozenset(),
    passes=False,
    advice="it is no Redis Cluster: write redis:// or rediss://",
    words=re.compile(r"cluster support disabled"),
)
UNKNOWN = Fault(
    classes=(),
    codes=frozenset(),
    passes=False,
    advice="it is there, but refused the command; Rollstream needs Redis 6.2 or newer",
)
"""Any other reply. A worker repeats the command for a while, then gives it up."""
LAST_ID = _never(
    r"exhausted the last possible ID|equal or smaller than the target stream top item|must be greater than 0-0",
    "something else wrote the last possible id into this stream, no entry can follow it; `rollstream doctor` names "
    "the stream and what to do",
)
TOO_LARGE = _never(
    r"string exceeds maximum allowed size",
    "it is larger than its proto-max-bulk-len: send less at once, or raise that limit",
)
_SENTINELS = tuple(
    Fault(classes=(kind,), codes=frozenset(), passes=kind.passes, advice=kind.advice) for kind in SENTINEL_ERRORS
)
UNCONFIRMED = Fault(
    classes=(UnconfirmedError,),
    codes=frozenset(),
    passes=True,
    advice="it is written all the same, and sending it again is safe; see that the replicas run and keep up "
    "(rollstream doctor), or wait for fewer (--redis-wait)",
)
NOT_REACHED = frozenset({AWAY, HUNG_UP, *_ENCRYPTION, *_SENTINELS})
"""Faults of a Redis that never answered: at a first contact the address or a certificate is to blame."""
DENIED = Fault(
    classes=(exceptions.NoPermissionError,),
    codes=frozenset({"NOPERM"}),
    passes=False,
    advice="this user lacks a right: `rollstream acl --role ROLE --policy POLICY` prints all that it needs, and "
    "`rollstream doctor --role ROLE` names what is missing",
    # Redis 7 and 8 (the first), and 6.2 (the second), say this without a code when a script may not run a command.
    words=re.compile(r"ACL failure in script|The user executing the script can't (?:run|access)"),
)
_FAULTS = (
    *_SENTINELS,
    UNCONFIRMED,
    _never(
        r"(?!)",
        "something else wrote this policy's keys; use another policy or another database",
        "WRONGTYPE",
    ),
    LAST_ID,
    TOO_LARGE,
    CUT_OFF,
    _never(
        r"(hash )?value is not (an integer|a float|a valid float)|increment or decrement would overflow"
        r"|invalid expire time|[Ii]nvalid (stream|start|end) ID",
        "something else wrote a field of this batch; submit it under another batch_id",
        "UNPUBLISHABLE",  # an error of our scripts
    ),
    _never(
        r"attempt to (perform|compare|index|call|concatenate)|bad argument #|Error compiling|wrong number of arg",
        "a script met a value that no producer or worker of this release writes; see `rollstream doctor`",
        classes=(exceptions.DataError,),
    ),
    Fault(
        classes=(PasswordFileError,),
        codes=frozenset(),
        passes=True,
        advice="write the password into the file; it is read again for the next connection",
    ),
    LOGIN,
    DENIED,
    Fault(
        classes=(),
        codes=frozenset(),
        passes=False,
        advice="it does not know the command: Rollstream needs Redis 6.2 or newer, with no command renamed",
        words=re.compile(r"[Uu]nknown (Redis )?command"),
    ),
    NO_DATABASE,
    OF_CLUSTER,
    NO_CLUSTER,
    OUT_OF_MEMORY,
    Fault(
        classes=(),
        codes=frozenset(),
        passes=True,
        advice="it has as many clients as it may: raise its maxclients, or close clients; "
        "one client shares its connections",
        words=re.compile(r"max number of clients reached"),
    ),
    Fault(
        classes=(),
        codes=frozenset(),
        passes=True,
        advice="this process has as many open files as it may: raise `ulimit -n`, or close clients and files",
        words=re.compile(r"[Tt]oo many open files"),
    ),
    Fault(
        classes=(
            exceptions.BusyLoadingError,
            exceptions.ReadOnlyError,
            exceptions.TryAgainError,
            exceptions.ClusterError,
            exceptions.AskError,
        ),
        codes=frozenset(
            {
                "BUSY",
                "LOADING",
                "READONLY",
                "TRYAGAIN",
                "NOREPLICAS",
                "MISCONF",
                "CLUSTERDOWN",
                "MASTERDOWN",
                "UNBLOCKED",
            }
        ),
        passes=True,
        advice="it is there, but cannot serve now; see its log",
    ),
    *_ENCRYPTION,
    HUNG_UP,
    AWAY,  # after those that redis-py derives from a lost connection
)
# Redis 6.2 wraps the reply to a command inside a script: "Error running script (...): @user_script:14: -OOM ...", and
# "...: @user_script:14: WRONGTYPE ..."
# redis-py wraps that of a pipeline: "Command # 1 (HSET ...) of pipeline caused error: ('WRONGTYPE ...',)".
_CODE = re.compile(r"(?:^|: ?-|@user_script:\d+: |caused error: \(?['\"]?)([A-Z]+) ")


def fault_of(error: BaseException | None) -> Fault:
    """The first kind that fits, by class, by reply code or by the reply's words."""
    code = code_of(error)
    return next((fault for fault in _FAULTS if fault.fits(error, code)), UNKNOWN)


_CODES: dict[type[Exception], str] = {
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.MasterDownError: "MASTERDOWN",
}
"""Codes that redis-py takes away from the text of its errors."""


def code_of(error: BaseException | None) -> str:
    """The code of an error reply, such as READONLY, also of a script's or a pipeline's; empty if it has none."""
    if taken_away := next((code for kind, code in _CODES.items() if isinstance(error, kind)), ""):
        return taken_away
    found = _CODE.search(str(error))
    return found[1] if found else ""


_CALL_FAILED = r"Connect call failed \([^)]*\)"
_TO_ALL = re.compile(rf"Error Multiple exceptions: (\[Errno \d+\] {_CALL_FAILED}.*) connecting to (.+?)\.?$")
"""A name with several addresses, such as localhost."""
_TO_ONE = re.compile(rf"Error (\d+) connecting to (.+?)\. {_CALL_FAILED}\.?$")
_TWO_SENTENCES = re.compile(r"^(Error \S+ (?:connecting to .+?|while writing to socket))\. ")
_ARGS = re.compile(r" ?: \((?:-?\d+, )?(['\"])(.*)\1,?\)$")


def text_of(error: BaseException) -> str:
    """What redis-py says, as a part of a sentence: without the tuples of Python's sockets and the last full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    if found := _TO_ALL.match(text):
        numbers = dict.fromkeys(re.findall(r"\[Errno (\d+)\]", found[1]))
        text = f"Error {', '.join(numbers)} connecting to {found[2]}: {', '.join(map(_meaning, numbers))}"
    elif found := _TO_ONE.match(text):
        text = f"Error {found[1]} connecting to {found[2]}: {_meaning(found[1])}"
    return _ARGS.sub(r": \2", _TWO_SENTENCES.sub(r"\1: ", text)).rstrip(". ")


def _meaning(number: str) -> str:
    return os.strerror(int(number))
