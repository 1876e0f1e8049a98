"""Which runs there are and how each is, for operators; and how one is given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys, NameRefusedError
from rollstream.schemas.hashes.ledger import LedgerCounts, LedgerField
from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.keys import check_run
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.transport.redis.faults import code_of

from ..redis_io.connection import Connection
from ..run_errors import RunChangedError, UnknownRunError
from . import scripts
from .plain import NotPlainError, unpacked

MOST_RUNS = 1000
"""The most runs that one look reads, the ones that wrote last."""
_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """A run at one moment."""

    name: str
    state: RunState
    now: float
    """Redis' clock, in Unix seconds."""
    token: bytes = b""
    """The opening that has it, whatever anybody has written there."""

    @property
    def silent_s(self) -> float:
        """Seconds since its trainer's last write."""
        return max(0.0, self.now - (self.state.seen_at or self.now))

    @property
    def cursor(self) -> str:
        """Its cursor as a text; empty if there is none."""
        if self.state.cursor is None:
            return ""
        try:
            return repr(unpacked(self.state.cursor))
        except NotPlainError as error:
            return f"unreadable: it {error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLeft:
    """How far an outstanding batch is."""

    batch_id: str
    done: int
    groups: int | None
    """None: it was never queued, or its ledger cannot be read."""


async def read_runs(redis: Redis, keys: Keys) -> list[RunSeen]:
    """All runs, the one that wrote last first. Raises `RedisError`."""
    names: Any = await redis.zrevrange(keys.runs(), 0, MOST_RUNS - 1)
    valid = [name for name in map(_text, names) if _is_name(name)]
    found: list[RunSeen] = []
    for start in range(0, len(valid), _PAGE):
        found += await _read(redis, keys, valid[start : start + _PAGE])
    return found


async def read_run(connection: Connection, keys: Keys, name: str) -> RunSeen:
    """One run. Raises `UnknownRunError`, `NameRefusedError`, `RedisUnavailableError`."""
    found = await connection.call("read a run", partial(_read, keys=keys, names=[check_run(name)]))
    if not found:
        raise UnknownRunError(name, keys.policy)
    return found[0]


async def read_left(connection: Connection, keys: Keys, run: RunSeen) -> list[BatchLeft]:
    """How far each outstanding batch of a run is, in the order of submission. Raises `RedisUnavailableError`."""

    async def read(redis: Redis) -> list[Any]:
        async with redis.pipeline(transaction=False) as pipe:
            for one in run.state.outstanding:
                pipe.hmget(keys.ledger(one.batch_id), [LedgerField.DONE, LedgerField.GROUPS])
            rows = list(await pipe.execute(raise_on_error=False))
        if failed := next((row for row in rows if isinstance(row, Exception) and code_of(row) != "WRONGTYPE"), None):
            raise failed
        return rows

    rows = await connection.call("read a run", read)
    return [_left(one.batch_id, row) for one, row in zip(run.state.outstanding, rows, strict=True)]


async def forget_run(connection: Connection, keys: Keys, run: RunSeen) -> None:
    """Remove the run. Its batches go on, and their results expire as those of any other batch.

    First the run, whose script asks whether it is still the one that was seen: a run that stays keeps its batches. If
    Redis goes away in between, what is not released expires with the run's retention. Raises `RunChangedError` if a
    trainer has opened it since it was read, `RedisUnavailableError`.
    """
    forget = partial(scripts.forget, keys=keys, name=run.name, token=run.token)
    was = await connection.call("forget a run", forget)
    if was is None:
        raise RunChangedError(run.name, keys.policy)
    # What was seen too: the script finds nothing where its first reply was lost.
    for batch_id in dict.fromkeys([*_kept(run.state), *_kept(was)]):
        release = partial(scripts.release, keys=keys, batch_id=batch_id, consumer="")
        await connection.call("forget a run", release)


def _kept(state: RunState) -> list[str]:
    """The batches whose results are kept for the run."""
    return [*(one.batch_id for one in state.outstanding), *state.settled]


async def _read(redis: Redis, keys: Keys, names: Sequence[str]) -> list[RunSeen]:
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(keys.run(name))
        replies: list[Any] = list(await pipe.execute(raise_on_error=False))
    seconds, micros = await redis.time()
    now = int(seconds) + int(micros) / 1e6
    rows = zip(names, replies, strict=True)
    return [
        RunSeen(name=name, state=RunState.of(told), now=now, token=told.get(RunField.TOKEN.encode(), b""))
        for name, told in rows
        if isinstance(told, dict) and told
    ]


def _left(batch_id: str, row: Sequence[bytes | None] | Exception) -> BatchLeft:
    done, groups = (None, None) if isinstance(row, Exception) else row
    try:
        counts = LedgerCounts.of(done, groups)
    except ValueError:
        return BatchLeft(batch_id=batch_id, done=0, groups=None)
    return BatchLeft(batch_id=batch_id, done=counts.done, groups=counts.groups)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _is_name(name: str) -> bool:
    try:
        check_run(name)
    except NameRefusedError:
        return False
    return True
