"""How many files, and so connections, this process may have open, and what is told when there are no more."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

_QUIET_S = 60.0
_NO_BOUND = 2**20

log = logging.getLogger("rollstream")


def most_open_files() -> int:
    """How many files may be open, once the soft limit was raised to the hard one, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _NO_BOUND if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):  # some systems have a bound below their hard limit
        return soft
    return most


class RefusedConnections:
    """The event loop's handler of errors. Connections that cannot be taken are told once a minute: asyncio tries
    thousands of times.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Called by the event loop."""
        if "socket.accept()" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _QUIET_S
            log.warning("no connection can be taken now: %s; raise `ulimit -n`", context.get("exception"))
