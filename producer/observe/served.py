"""Whether a policy is served: a program that stands in front of its queue warns at its start, and when that changes."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from functools import partial
from typing import NoReturn

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable, without_credentials

from ..batches.waiting_facts import why_unserved
from ..errors import RedisUnavailableError
from ..redis_io.connection import Connection

EVERY_S = 5.0
"""Seconds between two looks."""
_LOOK_S = 4.0
"""After so many seconds without an answer Redis counts as away."""

log = logging.getLogger("rollstream")


class Lack(StrEnum):
    """What keeps requests from being answered, as a client may know it: it names no place."""

    NOTHING = ""
    REDIS = "Redis cannot be reached from here"
    WORKERS = "no worker serves this model"


class Served:
    """`run` alone looks and changes what is lacking, between two awaits of one event loop."""

    def __init__(self, *, program: str, connection: Connection, keys: Keys, every_s: float = EVERY_S) -> None:
        """`program`: who warns, such as `gateway`."""
        self.lack = Lack.NOTHING
        self._program = program
        self._connection = connection
        self._keys = keys
        self._every_s = every_s

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled."""
        while True:
            self._tell(*await self._look())
            await asyncio.sleep(self._every_s)

    async def _look(self) -> tuple[Lack, str]:
        """What is lacking now, and why."""
        try:
            async with asyncio.timeout(_LOOK_S):
                ask = partial(why_unserved, keys=self._keys)
                why = await self._connection.call("ask who serves the policy", ask, told=True)
        except RedisUnavailableError as error:
            return Lack.REDIS, str(error)
        except TimeoutError:
            return Lack.REDIS, f"Redis at {self._connection.url} does not answer"
        return (Lack.WORKERS if why else Lack.NOTHING), why

    def _tell(self, lack: Lack, why: str) -> None:
        """Log what has changed; nothing while the same is lacking, whatever the reason is by now."""
        if lack is self.lack:
            return
        if lack is not Lack.NOTHING:
            text = f"requests wait: {why}"
        else:
            text = f"workers serve policy {self._keys.policy!r} now"
        self.lack = lack
        log.warning("%s: %s", self._program, printable(without_credentials(text)))
