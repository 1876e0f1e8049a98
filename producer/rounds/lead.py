"""The trainer's part of a round: open it, see who joins, send, and say how it ended.

Redis is only where the parties agree; the tensors go from process to process. While a round is under way the trainer
beats, so that workers see its death within seconds, and it sees theirs. One death ends the round for all: each
member then has its old weights again, and takes the version from the weight store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rollstream.schemas import Keys, NameRefusedError, encode
from rollstream.schemas.hashes.rounds import BEAT_S, STALE_MS, Did, Member, Phase, RoundState
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.rounds import MAX_MEMBERS, MAX_RANKS, Backend, Place, Round, RoundPlan, Sent
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.in_thread import in_thread
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.meeting import Meeting
from rollstream.transport.rounds.scripts import beat_round, open_round, turn_round

from ..redis_io.connection import Connection
from .errors import RoundRefusedError
from .round_options import RoundOptions

_ABORT_WAIT_S = 1.0
"""Nobody beats meanwhile, so it is less than what a dead trainer is known by."""

log = logging.getLogger("rollstream")


class Load(Protocol):
    """What is sent: see `Outgoing`."""

    sent: Sent
    device: object

    def send(self, link: Link) -> None:
        """Blocks until all others have everything. Raises `LinkError`."""


class Meets(Protocol):
    """Where the others find the trainer: see `Meeting`."""

    place: bytes

    def link(self, world_size: int) -> Link:
        """Blocks until all have come, or it is given up. Raises `LinkError`."""

    def give_up(self) -> None:
        """From any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """How a round ended. A worker that is not among those who received takes the version from the weight store."""

    received: tuple[str, ...]
    """Names of the workers that have all tensors."""
    why: str
    """Why it broke, or why nobody was in it; empty if it did not."""
    seconds: float
    """From the plan to the last that received."""


class RoundLeader:
    """One round. `open` comes before the announcement, so that its readers find the round; then `lead`."""

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        version: int,
        sha256: str,
        load: Load,
        options: RoundOptions,
        meeting: Callable[[], Meets],
    ) -> None:
        self._connection, self._keys = connection, keys
        self._load, self._make_meeting = load, meeting
        self._options = options
        self._epoch = secrets.token_hex(8)
        self._call = Round(
            epoch=self._epoch,
            version=version,
            sha256=sha256,
            backend=options.backend,
            sent=load.sent,
            join_s=options.join_s,
            timeout_s=options.timeout_s,
        )
        self._meeting: Meets | None = None
        self._link: Link | None = None
        self._broken = False

    async def open(self) -> None:
        """Raises `RoundRefusedError` also while another trainer's round is under way, `RedisUnavailableError`."""
        call = encode(self._call)
        try:
            self._meeting = self._make_meeting()
        except LinkError as error:
            raise RoundRefusedError(error.problem) from error
        opened = await self._connection.call(
            "open a round", lambda redis: open_round(redis, self._keys, self._epoch, call)
        )
        if not opened:
            raise RoundRefusedError("another round of this policy is under way: one trainer sends at a time")

    async def lead(self, expected: frozenset[str]) -> RoundOutcome:
        """See the round through. It is open until all `expected` workers have joined, or for `join_s`.

        Never raises for what becomes of the round. Raises `RedisUnavailableError`; the round is then broken too.
        """
        try:
            places = _places(await self._gather(expected))
            if not places or self._meeting is None:
                return await self._over(Phase.BROKEN, (), "no worker joined", time.monotonic())
            return await self._send(places, self._meeting)
        except BaseException:
            self._break_off()  # its beats end, so the members break it off too
            raise

    async def _gather(self, expected: frozenset[str]) -> RoundState:
        until = time.monotonic() + self._options.join_s
        while True:
            state = await self._beat()
            if not expected - state.members.keys() or time.monotonic() >= until:
                return state
            await asyncio.sleep(BEAT_S)

    async def _send(self, places: tuple[Place, ...], meeting: Meets) -> RoundOutcome:
        began = time.monotonic()
        plan = RoundPlan(epoch=self._epoch, places=places, meeting=meeting.place)
        if not await self._turn(Phase.SENDING, plan=encode(plan)):
            return await self._over(Phase.BROKEN, (), "another round took its place", began)
        sending = in_thread(partial(self._link_and_send, meeting, plan.world_size))
        while True:
            state = await self._beat()
            names = [place.consumer for place in places]
            received = tuple(name for name in names if _did(state, name) == Did.RECEIVED)
            why = _problem(sending, state, [name for name in names if name not in received])
            if why and not sending.done():
                self._break_off()
            if why or state.epoch != self._epoch:
                return await self._over(Phase.BROKEN, received, why or "another round took its place", began)
            if sending.done() and not any(_waits(state, name) for name in names):
                return await self._over(Phase.DONE, received, "", began)
            if time.monotonic() > began + self._options.timeout_s:
                self._break_off()
                return await self._over(Phase.BROKEN, received, f"not over after {self._options.timeout_s:g} s", began)
            await asyncio.sleep(BEAT_S)

    def _link_and_send(self, meeting: Meets, world_size: int) -> None:
        self._link = meeting.link(world_size)
        try:
            if not self._broken:
                self._load.send(self._link)
        finally:
            self._link.close()

    def _break_off(self) -> None:
        self._broken = True
        if self._meeting is not None:
            self._meeting.give_up()
        if self._link is not None:
            aborting = threading.Thread(target=self._link.abort, name="end of a round", daemon=True)
            aborting.start()
            aborting.join(_ABORT_WAIT_S)  # it may hang in a GPU's driver

    async def _over(self, phase: Phase, received: tuple[str, ...], why: str, began: float) -> RoundOutcome:
        await self._turn(phase, why=why)
        seconds = round(time.monotonic() - began, 3)
        log.debug("round of version %s: %s received it in %s s%s", self._call.version, len(received), seconds, why)
        return RoundOutcome(received=received, why=why, seconds=seconds)

    async def _beat(self) -> RoundState:
        return await self._connection.call(
            "beat in a round", lambda redis: beat_round(redis, self._keys, self._epoch), told=True
        )

    async def _turn(self, phase: Phase, *, plan: bytes = b"", why: str = "") -> bool:
        return await self._connection.call(
            "take a round on",
            lambda redis: turn_round(redis, self._keys, self._epoch, phase, plan=plan, why=why),
            told=True,
        )


def _places(state: RoundState) -> tuple[Place, ...]:
    """The members in the order of their names, without what no worker can have written."""
    places: list[Place] = []
    rank = 1
    for name, member in sorted(state.members.items()):
        if _is_sane(name, member) and rank + member.ranks <= MAX_RANKS and len(places) < MAX_MEMBERS:
            places.append(Place(consumer=name, first_rank=rank, ranks=member.ranks))
            rank += member.ranks
    return tuple(places)


def _is_sane(name: str, member: Member) -> bool:
    try:
        check_name("consumer", name)
    except NameRefusedError:
        return False
    return member.ranks > 0 and member.silent_ms < STALE_MS and member.did != Did.FAILED


def _did(state: RoundState, name: str) -> str:
    return state.members[name].did if name in state.members else Did.FAILED


def _waits(state: RoundState, name: str) -> bool:
    """Whether the member has everything and has not said yet what it made of it."""
    member = state.members.get(name)
    return member is not None and member.did not in (Did.RECEIVED, Did.FAILED) and member.silent_ms < STALE_MS


def _problem(sending: asyncio.Future[None], state: RoundState, waited_for: list[str]) -> str:
    """Why nothing more comes of the round. Once everything is sent, a member is out alone."""
    if sending.done():
        error = sending.exception()
        return "" if error is None else str(error)
    for name in waited_for:
        member = state.members.get(name)
        if member is None or member.silent_ms >= STALE_MS:
            return f"worker {name} is gone"
        if member.did == Did.FAILED:
            return f"worker {name} gave up"
    return ""


def meeting_of(backend: Backend, host: str, timeout_s: float, device: object) -> Callable[[], Meets]:
    """Makes the place where the others find this process. Raises `LinkError` when called."""
    return lambda: Meeting(backend=backend, host=host, timeout_s=timeout_s, device=device)
