"""The producer's border to Redis: commands that are safe to repeat are repeated, and Redis' errors become our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.acl import Role, is_old, missing_rights, named, other_login, rights_of
from rollstream.transport.redis import connected, is_split
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.client_settings import BLOCK_MS, NO_BOUND, client_settings
from rollstream.transport.redis.faults import DENIED, LOGIN, NOT_REACHED, Fault, fault_of, text_of
from rollstream.transport.redis.lost_cancellations import cancellations, cancellations_so_far
from rollstream.transport.redis.primary import failovers_of, primary_of
from rollstream.transport.redis.sentinel_answers import Primary
from rollstream.transport.redis.tls_problems import tls_problem
from rollstream.transport.redis.urls import RedisUrlError

from ..calls.home import Home, OpenCalls
from ..calls.patience import Overdue
from ..errors import RedisUnavailableError
from .connection_pool import TurnPool
from .shared_reads import SharedReads

COMMANDS_AT_ONCE = 32
"""How many commands of one client run at once on each node, each on its own connection; others wait for their turn."""
READS_AT_ONCE = 8
"""Blocking reads of one client, see `producer.redis_io.shared_reads`; in a cluster `_READS_OF_A_PARTITION` each."""
_READS_OF_A_PARTITION = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0

_READ = "read results"

T = TypeVar("T")


class Connection:
    """One Redis for one client. redis-py's own retries are off, since they repeat commands that must not be repeated.

    A connection belongs to the event loop of its first call and to the process that made it, see `Home`.
    """

    def __init__(
        self,
        *,
        access: RedisAccess | str,
        reconnect_s: float,
        keys: Keys | None = None,
        role: Role = Role.PRODUCER,
        also: Role | None = None,
    ) -> None:
        """`keys` and `role`: whose rights an error should name that comes of a missing one; None: it names none.
        `also`: another role whose users send the same; the one is named that the user has more of.
        """
        self.access = RedisAccess.of(access)
        self.url = str(self.access)
        self._reconnect_s = reconnect_s
        self._keys = keys
        self._roles = (role,) if also is None else (role, also)
        self._reached = False
        self.outages = 0
        """How many tries of this client failed: after one, Redis may have lost what it had confirmed before."""
        self._home = Home()
        self._calls = OpenCalls()
        self._left: set[asyncio.Future[Any]] = set()
        self._reads: dict[int, SharedReads] = {}
        self.asking = asyncio.Lock()
        """Held by the one wait that asks Redis what it waits for."""
        self.said: dict[str, float] = {}
        """The texts that such waits have just logged, see `producer.calls.patience`."""
        try:
            self._redis = connected(self.access, pool=TurnPool, max_connections=COMMANDS_AT_ONCE, **client_settings())
            # `SharedReads` limits the number of blocking reads.
            self._blocking = connected(self.access, max_connections=NO_BOUND, **client_settings())
        except RedisUrlError as error:
            raise RedisUnavailableError("connect", error.url, error.problem, error.advice) from None

    @property
    def user(self) -> str:
        """The user of the URL; empty where it names none."""
        return str(self.access.place().options.get("username", ""))

    async def call(self, what: str, command: Callable[[Redis], Awaitable[T]], *, told: bool = False) -> T:
        """The answer to `command`, which must be safe to send twice: it is sent again while Redis is away.

        Until Redis has answered once, nothing is repeated, so that a wrong address is reported at once. If Redis says
        that it cannot serve just now (loading, out of memory, ...), the call waits as for a lost connection.
        After ten seconds the wait is logged, unless the caller does that itself (`told`). Raises
        `RedisUnavailableError`, `ClientClosedError` (also when the client is closed meanwhile) and
        `ClientMisusedError`.
        """
        async with self._calls.open(what):
            await self._home.enter(what, self._redis, self._blocking)
            if told:
                return await self._answer(what, partial(command, self._redis), [])
            problems: list[str] = []
            with Overdue(lambda seconds: self._silence(what, seconds, problems)):
                return await self._answer(what, partial(command, self._redis), problems)

    @property
    def sees_failovers(self) -> bool:
        """Whether the client is told of failovers."""
        return self.access.place().is_sentinel or hasattr(self._redis, "failovers")

    @property
    def primary(self) -> Primary | None:
        """The primary that the Sentinels named last; None without Sentinels."""
        return primary_of(self._redis)

    @property
    def failovers(self) -> int:
        """How many failovers this client has seen: what was written shortly before one may be lost."""
        return failovers_of(self._redis) + failovers_of(self._blocking)

    def reads(self, partition: int) -> SharedReads:
        """The reads shared by all that wait for results of this partition."""
        shared = partition if is_split(self._redis) else 0
        if shared not in self._reads:
            most = _READS_OF_A_PARTITION if is_split(self._redis) else READS_AT_ONCE
            self._reads[shared] = SharedReads(
                read=self._read, waiting=partial(self._calls.open, _READ), most=most, block_ms=BLOCK_MS
            )
        return self._reads[shared]

    async def _read(self, command: Callable[[Redis], Awaitable[T]]) -> T:
        """Like `call`, for a blocking command; it has a pool of its own and takes no turn from other commands."""
        async with self._calls.open(_READ):
            await self._home.enter(_READ, self._redis, self._blocking)
            return await self._answer(_READ, partial(self._apart, partial(command, self._blocking)), [])

    def _silence(self, what: str, seconds: float, problems: list[str]) -> str:
        why = f" ({problems[-1]})" if problems else ""
        return f"{what}, after {seconds:.0f} s: Redis at {self.url} does not answer{why}"

    async def _answer(self, what: str, command: Callable[[], Awaitable[T]], problems: list[str]) -> T:
        if not self._reached:
            await self._reach(what)
        return await self._until_answered(what, command, problems)

    async def _reach(self, what: str) -> None:
        try:
            await self._once(what, self._redis.ping)
        except RedisUnavailableError as error:
            fault = fault_of(error.__cause__)
            if fault in NOT_REACHED and (found := await tls_problem(error.__cause__, self.access)):
                raise RedisUnavailableError(what, self.url, *found) from error.__cause__
            if fault in NOT_REACHED or not fault.passes:
                raise
        self._reached = True

    async def _until_answered(self, what: str, command: Callable[[], Awaitable[T]], problems: list[str]) -> T:
        loop, give_up, pause = asyncio.get_running_loop(), inf, _FIRST_PAUSE_S
        while True:
            try:
                return await self._once(what, command)
            except RedisUnavailableError as error:
                self.outages += 1
                # The time runs from the first error: a busy event loop may see a failure late.
                give_up = min(give_up, loop.time() + self._reconnect_s)
                if not self._passes(fault_of(error.__cause__)) or loop.time() + pause > give_up:
                    raise
                problems.append(error.problem)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _passes(self, fault: Fault) -> bool:
        """Whether to send it again. A password in a file may be a moment behind that of Redis, or ahead of it."""
        return fault.passes or (fault is LOGIN and self.access.password_file is not None)

    def _advice(self, fault: Fault) -> str:
        file = self.access.password_file
        return fault.advice if fault is not LOGIN or file is None else f"check the user and the password in {file}"

    async def _once(self, what: str, command: Callable[[], Awaitable[T]]) -> T:
        """One attempt. The command is sent before other tasks run, of which a caller with many batches has many."""
        before = await cancellations_so_far()
        try:
            answer = await command()
        except (exceptions.RedisError, OSError) as error:  # redis-py opens a file for its first connection
            if cancellations() > before:
                raise asyncio.CancelledError from error
            fault = fault_of(error)
            advice = (await self._lacking() if fault is DENIED else "") or self._advice(fault)
            raise RedisUnavailableError(what, self.url, text_of(error), advice) from error
        if cancellations() > before:
            raise asyncio.CancelledError
        return answer

    async def _lacking(self) -> str:
        """Which rights of its role the user lacks, and what to do; empty if that cannot be said."""
        if self._keys is None:
            return ""
        try:
            each = {role: await missing_rights(self._redis, role, self._keys) for role in self._roles}
            role, missing = min(each.items(), key=lambda one: len(one[1]) / len(rights_of(one[0])))
            if not missing:
                return ""
            advice = other_login(role, self._keys.policy, is_old=await is_old(self._redis))
        except (exceptions.RedisError, OSError):
            return ""
        return f"this user lacks {named(missing, self._keys.policy)}: {advice}"

    async def _apart(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run a blocking command in a task of its own, so that a cancelled caller need not wait for it.

        redis-py may lose a cancellation. The abandoned task then ends by itself, at the latest with Redis' answer.
        """
        asked = asyncio.ensure_future(command())
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._left.add(asked)
            asked.add_done_callback(self._forget)
            asked.cancel()
            raise

    def _forget(self, given_up: asyncio.Future[Any]) -> None:
        self._left.discard(given_up)
        if not given_up.cancelled():
            given_up.exception()  # marks the error as seen: nothing else waits for it

    async def aclose(self) -> None:
        """Close every socket; calls under way raise `ClientClosedError`. Safe to call twice.

        In a forked process, or after its event loop has ended, this only refuses further calls. Raises
        `ClientMisusedError` in another event loop while the client's own is running.
        """
        is_here = self._home.is_here("close")
        self._calls.refuse()
        if is_here:
            await self._calls.end()
            await self._home.leave()
