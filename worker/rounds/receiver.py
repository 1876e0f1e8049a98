"""Has the engine receive a version in its round; where that fails, the engine has its old weights and goes on."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys, SchemaError, decode
from rollstream.schemas.wire.rounds import Backend, Round
from rollstream.transport.rounds.scripts import called

from ..checkpoints.supply import CheckpointSupply, Wanted
from ..engine import Engine, Incoming, Prove, SwapMode
from ..errors import RoundMissedError, SwapFailedError
from ..weights.checkpoint import Stamp
from .membership import Membership
from .way_back import WayBack


class RoundReceiver:
    """Receives one version at a time; `wanted` tells also where its files are.

    What came in a round has no files here. They are fetched at once (`WayBack`): an engine goes back to files, so
    before it has them the worker joins no other round, and loads no other version.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        consumer: str,
        backend: Backend,
        engine: Engine,
        checkpoints: CheckpointSupply,
    ) -> None:
        self._redis, self._keys, self._consumer, self._backend = redis, keys, consumer, backend
        self._engine = engine
        self._way_back = WayBack(engine=engine, checkpoints=checkpoints)

    async def receive(self, wanted: Wanted, mode: SwapMode, prove: Prove | None) -> float:
        """Returns the seconds in which nothing was sampled.

        Raises `RoundMissedError` with the old weights in place: the version has to come another way. Raises
        `CheckpointRefusedError`, `ProofFailedError` and `EngineDiedError`.
        """
        if self._way_back.missing is not None:
            raise RoundMissedError(f"the files of version {self._way_back.missing}, to go back to, are not here yet")
        call = await self._called(wanted)
        ranks = self._engine.info.ranks
        member = Membership(redis=self._redis, keys=self._keys, consumer=self._consumer, call=call, ranks=ranks)
        async with member:
            incoming = await self._incoming(member, call)
            if mode != "wait":
                await self._engine.link(incoming, member.over)
                member.linked()
            try:
                paused_s = await self._engine.receive(wanted.version, incoming, mode, prove, member.over)
            except SwapFailedError as error:
                raise RoundMissedError(f"{error.problem} ({member.why})" if member.why else error.problem) from error
        await self._way_back.begin(wanted)
        return paused_s

    async def check_way_back(self) -> None:
        """See `WayBack.check`."""
        await self._way_back.check()

    def stamp(self) -> Stamp:
        """See `WayBack.stamp`."""
        return self._way_back.stamp()

    async def aclose(self) -> None:
        """Fetch nothing more."""
        await self._way_back.aclose()

    async def _called(self, wanted: Wanted) -> Round:
        try:
            call = decode(await called(self._redis, self._keys) or b"", Round)
        except RedisError as error:
            raise RoundMissedError(f"Redis did not answer: {error}") from error
        except SchemaError as error:
            raise RoundMissedError(f"there is none, or it cannot be read: {error}") from error
        if (call.version, call.sha256) != (wanted.version, wanted.sha256):
            raise RoundMissedError(f"the newest is that of version {call.version}")
        if call.backend != self._backend:
            raise RoundMissedError(f"it goes by {call.backend}, and this worker has --weight-transfer {self._backend}")
        return call

    async def _incoming(self, member: Membership, call: Round) -> Incoming:
        plan = await member.planned()
        place = plan.place_of(self._consumer)
        if place is None or place.ranks != self._engine.info.ranks:
            raise RoundMissedError("it began without this worker")
        return Incoming(
            backend=call.backend,
            sent=call.sent,
            meeting=plan.meeting,
            first_rank=place.first_rank,
            world_size=plan.world_size,
            timeout_s=call.timeout_s,
        )
