"""Typed calls of a run's scripts. Those that write for a trainer say who has the run if it is not this trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, encode
from rollstream.schemas.field_values import text_of
from rollstream.schemas.hashes.runs import RunFence, RunField, Taken
from rollstream.schemas.times import LONGEST_RUN_RETENTION_S, RESULT_TTL_S
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.schemas.wire.trainers.runs import GateState, Intent
from rollstream.transport.redis.confirmed import confirmed
from rollstream.transport.redis.scripts import Call, Script, Word, load

from ..run_errors import not_held

_TOUCH = load(__package__, "touch.lua").text


def _load(name: str) -> Script:
    script = load(__package__, name, with_run_fence=True)
    return replace(script, text=_TOUCH + script.text)


OPEN = _load("open.lua")
INTEND = _load("intend.lua")
WITHDRAW = _load("withdraw.lua")
SETTLE_BATCH = _load("settle_batch.lua")
SAVE = _load("save.lua")
HOLD = load(__package__, "hold.lua")
RELEASE = load(__package__, "release.lua")
FORGET = load(__package__, "forget_run.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An opening that has the run, and what each of its writes needs."""

    keys: Keys
    fence: RunFence
    kept_for: int
    """Seconds."""
    wait: int
    """How many replicas are waited for."""

    def call_of(self, script: Script, args: Sequence[Word]) -> Call:
        """The call of a script that writes for this opening."""
        names = self.keys.run(self.fence.name), self.keys.runs()
        return script(names, [self.fence.name, self.kept_for, self.fence.token, *args])


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a write leaves in the run beside its own; None and empty: as it is."""

    call: str
    """The write's name."""
    after: str
    """The name of the write before it, as far as the trainer knows: it is not written after any other."""
    cursor: bytes | None = None
    cursor_version: int = 0
    gate: GateState | None = None
    released: Sequence[str] = ()
    """Batches whose results have their usual time to live again."""

    @property
    def words(self) -> list[Word]:
        """As the scripts take all but the last."""
        version: Word = "" if self.cursor is None else self.cursor_version
        return [self.call, self.after, version, self.cursor or b"", b"" if self.gate is None else encode(self.gate)]

    @property
    def released_words(self) -> list[Word]:
        """As the scripts take the last."""
        return [RunField.settled(batch_id) for batch_id in self.released]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a write. Only one that is `written` has changed anything."""

    what: Literal["written", "other", "before", "unknown"]
    which: str
    """The write that was the last (other), or the batch that was settled before or is not outstanding (unknown)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run that was just opened."""

    holder: str
    """The trainer that had it and had not closed it; empty if none had."""
    state: RunState


async def open_run(redis: Redis, held: Held, *, holder: str, stem: str) -> Opened:
    """See `open.lua`. Raises `RedisError`, `UnconfirmedError`."""
    reply = await confirmed(redis, held.call_of(OPEN, [holder, stem, LONGEST_RUN_RETENTION_S]), held.wait)
    before, flat = reply
    told = dict(zip(flat[::2], flat[1::2], strict=True))
    return Opened(holder=before[0].decode("utf-8", "backslashreplace"), state=RunState.of(told))


async def intend(redis: Redis, held: Held, intent: Intent) -> tuple[Literal["intended", "again", "settled"], bytes]:
    """See `intend.lua`: the outcome, and the intent that is there now.

    Raises `RunTakenError`, `RunLostError`, `RedisError`.
    """
    names = RunField.outstanding(intent.batch_id), RunField.settled(intent.batch_id)
    reply = await confirmed(redis, held.call_of(INTEND, [*names, encode(intent), intent.number]), held.wait)
    _check_held(held, reply)
    return reply[0].decode(), reply[1]


async def withdraw(redis: Redis, held: Held, intent: Intent) -> None:
    """See `withdraw.lua`. Raises `RunTakenError`, `RunLostError`, `RedisError`."""
    args = RunField.outstanding(intent.batch_id), encode(intent)
    _check_held(held, await confirmed(redis, held.call_of(WITHDRAW, args), held.wait))


async def settle_batches(redis: Redis, held: Held, batch_ids: Sequence[str], *, how: RunField, saved: Saved) -> Outcome:
    """See `settle_batch.lua`; `how`: the field that counts them.

    Raises `RunTakenError`, `RunLostError`, `RedisError`.
    """
    names = [name for one in batch_ids for name in (RunField.outstanding(one), RunField.settled(one))]
    args = [*saved.words, how, len(batch_ids), *names, *saved.released_words]
    told = _outcome(held, await confirmed(redis, held.call_of(SETTLE_BATCH, args), held.wait))
    return replace(told, which=batch_ids[int(told.which)]) if told.what in ("before", "unknown") else told


async def save(redis: Redis, held: Held, saved: Saved, *, close: bool = False) -> Outcome:
    """See `save.lua`. Raises `RunTakenError`, `RunLostError`, `RedisError`."""
    args = [*saved.words, "1" if close else "", *saved.released_words]
    return _outcome(held, await confirmed(redis, held.call_of(SAVE, args), held.wait))


async def hold(redis: Redis, keys: Keys, batch_id: str, digest: str, kept_for: int) -> list[bytes | None] | None:
    """See `hold.lua`: what the ledger says; None if it is none. Raises `RedisError`."""
    reply: list[bytes | None] | None = await HOLD(_kept(keys, batch_id), [digest, kept_for]).to(redis)
    return reply


async def release(redis: Redis, keys: Keys, batch_id: str, consumer: str) -> bool:
    """See `release.lua`; `consumer`: the run, or empty. Raises `RedisError`."""
    return bool(await RELEASE(_kept(keys, batch_id), [consumer, RESULT_TTL_S]).to(redis))


async def forget(redis: Redis, keys: Keys, name: str, token: bytes) -> RunState | None:
    """See `forget_run.lua`: the run as it was; None if a trainer has opened it meanwhile. Raises `RedisError`."""
    flat = await FORGET([keys.run(name), keys.runs()], [name, token]).to(redis)
    return None if flat is None else RunState.of(dict(zip(flat[::2], flat[1::2], strict=True)))


def _kept(keys: Keys, batch_id: str) -> tuple[str, ...]:
    """What of a batch stays for as long as a run wants it."""
    return keys.ledger(batch_id), keys.results(batch_id), keys.routing(batch_id)


def _outcome(held: Held, reply: Sequence[bytes]) -> Outcome:
    """Raises `RunTakenError`, `RunLostError`."""
    _check_held(held, reply)
    what: Any = reply[0].decode()
    return Outcome(what=what, which=text_of(reply[1]))


def _check_held(held: Held, reply: object) -> None:
    """Raises `RunTakenError`, `RunLostError`."""
    if (taken := Taken.of(reply)) is not None:
        raise not_held(held.keys.policy, held.fence, taken)
