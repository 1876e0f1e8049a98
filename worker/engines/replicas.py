"""Several engines of one worker on one GPU, with one admission budget and one set of leases. They die together.

One engine with a small model is limited by the Python of its own process and leaves the chip idle; several fill it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from ..config import WorkerSettings
from ..engine import Collector, Engine, EngineInfo, Incoming, Prove, Score, SwapMode
from ..errors import DataError, EngineDiedError, RoundMissedError, UnprovableError, WorkerError
from ..requests import (
    Adapter,
    Completion,
    Expanded,
    GenerateRequest,
    KvUse,
    NextTokens,
    Partial,
    Picture,
    ScoreRequest,
    Scores,
)
from ..weights import checkpoint
from .replica_calls import all_of
from .replica_metrics import ReplicaMetrics
from .replica_sessions import ReplicaSessions
from .verdict import Verdict

_Weights = tuple[int, Path, str | None]
"""A version, and the folder and digest of the files from which it was loaded."""


def settings_of_one(settings: WorkerSettings) -> WorkerSettings:
    """The settings of one replica: an equal share of the worker's memory, but its own full `max_num_seqs`."""
    share = {
        "gpu_memory_utilization": settings.gpu_memory_utilization / settings.replicas,
        "kv_cache_bytes": None if settings.kv_cache_bytes is None else settings.kv_cache_bytes // settings.replicas,
    }
    return settings.model_copy(update=share)


class Replicas:
    """An `Engine` (see `worker.engine`) made of several that serve the same model with the same settings.

    A call about weights goes to all engines. A group goes to the engine that runs the fewest sequences, and a session's
    next turn to the one that ran the last. All steps of a beam search go to one engine, which has their prefix in its
    cache.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._running = [0] * len(self._engines)
        self._sessions = ReplicaSessions()
        self._loaded: list[_Weights | None] = [None] * len(self._engines)

    @property
    def info(self) -> EngineInfo:
        """The info of one engine, with the `max_num_seqs` and the ranks of all, and what each of them offers."""
        infos = [engine.info for engine in self._engines]
        sequences, ranks = (sum(each) for each in zip(*((one.max_num_seqs, one.ranks) for one in infos), strict=True))
        # Each engine proves its routing for itself.
        features = frozenset.intersection(*(one.features for one in infos))
        missing = next((one.missing for one in infos if one.features == features), infos[0].missing)
        return replace(infos[0], max_num_seqs=sequences, ranks=ranks, features=features, missing=missing)

    @property
    def policy_version(self) -> int:
        """The oldest version that an engine serves: no new request is sampled with an older one."""
        return min(engine.policy_version for engine in self._engines)

    @property
    def experts_reached(self) -> tuple[int, int] | None:
        """See `Engine.experts_reached`: the fewest that an engine reached."""
        found = [engine.experts_reached for engine in self._engines]
        return min((one for one in found if one is not None), default=None) if None not in found else None

    def each(self) -> Sequence[Engine]:
        """All of them."""
        return self._engines

    async def start(self) -> None:
        """Start the engines one after the other: at the same time each would count the memory of another as its own."""
        for engine in self._engines:
            await engine.start()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """See `Engine.generate`; runs on the engine of its session, else on the one with the fewest sequences."""
        number = self._sessions.place(request.session, self._running, [one.info.max_num_seqs for one in self._engines])
        async with self._counted(number, request.config.num_return_sequences):
            return await self._engines[number].generate(request)

    def partials(self, request_id: str) -> list[Partial]:
        """Those of the one engine that runs it."""
        return next(filter(None, (engine.partials(request_id) for engine in self._engines)), [])

    async def release(self) -> None:
        """Have every engine hand over what it has sampled."""
        await all_of(engine.release() for engine in self._engines)

    async def memory_use(self) -> KvUse | None:
        """What all of them say together; the used share is that of the fullest, which is the first to take blocks away.

        None if one cannot tell.
        """
        found = [await engine.memory_use() for engine in self._engines]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return KvUse(
            used=max(one.used for one in known),
            running=sum(one.running for one in known),
            waiting=sum(one.waiting for one in known),
            preemptions=sum(one.preemptions for one in known),
        )

    async def expand(self, prompt: list[int], pictures: Sequence[Picture]) -> Expanded:
        """See `Engine.expand`; by any engine, since all have the same model, for requests to whichever."""
        number = min(range(len(self._engines)), key=self._running.__getitem__)
        return await self._engines[number].expand(prompt, pictures)

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        """See `Engine.next_tokens`. The `request_id`s of a search's steps are equal up to the last `/`."""
        number = zlib.crc32(request_id.rpartition("/")[0].encode()) % len(self._engines)
        async with self._counted(number, 1):
            return await self._engines[number].next_tokens(request_id, prompt, k, adapter, images)

    async def score(self, request: ScoreRequest) -> Scores:
        """See `Engine.score`; runs on the engine with the fewest sequences."""
        number = min(range(len(self._engines)), key=self._running.__getitem__)
        async with self._counted(number, 1):
            return await self._engines[number].score(request)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load it into every engine, since a group may go to any; if one refuses it, into none. Raises `DataError`."""
        loaded: list[Engine] = []

        async def load(engine: Engine) -> None:
            await engine.load_adapter(adapter)
            loaded.append(engine)

        try:
            await all_of(load(engine) for engine in self._engines)
        except DataError:
            await all_of(engine.unload_adapter(adapter) for engine in loaded)
            raise

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Unload it from every engine."""
        await all_of(engine.unload_adapter(adapter) for engine in self._engines)

    async def prepare(self, path: Path, content: checkpoint.Content) -> None:
        """See `Engine.prepare`. All share one copy; those that have it keep it if another could not."""
        await all_of(engine.prepare(path, content) for engine in self._engines)

    async def load_checkpoint(
        self,
        version: int,
        path: Path,
        mode: SwapMode,
        content: checkpoint.Content | None = None,
        prove: Prove | None = None,
    ) -> float:
        """Load it, at the same time, into every engine that has not yet loaded these files as `version`.

        Raises what `Engine.load_checkpoint` raises, once all are done. A version that proves itself is loaded by all
        engines, whatever they have. It is served once all have proven it, and by none after the first failure; each
        waits for the others meanwhile.
        If only some could load another one, these serve it, and `version_spans` say so; `policy_version` stays the old
        one until a later call has loaded the others. Files are compared too, because a version that is announced again
        may have other weights. Returns the longest pause of one engine.
        """
        read = await asyncio.to_thread(checkpoint.read_content, path) if content is None else content
        weights = version, path, read.sha256
        behind = [number for number, loaded in enumerate(self._loaded) if prove is not None or loaded != weights]
        verdict = None if prove is None else Verdict(version=version, parties=len(behind), prove=prove)
        paused_s = [0.0]

        async def load(number: int) -> None:
            paused_s.append(await self._load(number, weights, mode, read, verdict))

        try:
            await all_of(load(number) for number in behind)
        except WorkerError as error:
            raise _cause(error, verdict) from None
        return max(paused_s)

    async def link(self, incoming: Incoming, over: asyncio.Event) -> None:
        """Link every engine, each with ranks of its own. Raises `RoundMissedError`; none is linked then."""
        try:
            await all_of(engine.link(part, over) for engine, part in self._parts(incoming))
        except RoundMissedError:
            await self.unlink()
            raise

    async def unlink(self) -> None:
        """Give up the links of all."""
        await all_of(engine.unlink() for engine in self._engines)

    async def receive(
        self, version: int, incoming: Incoming, mode: SwapMode, prove: Prove | None, over: asyncio.Event
    ) -> float:
        """Receive it in every engine, or in none: also without a probe each waits for the others before it samples.

        Raises what `Engine.receive` raises, once all are done. Returns the longest pause of one engine.
        """
        verdict = Verdict(version=version, parties=len(self._engines), prove=prove or _nothing)
        self._loaded = [None] * len(self._engines)
        paused_s: list[float] = []

        async def receive(engine: Engine, part: Incoming) -> None:
            try:
                paused_s.append(await engine.receive(version, part, mode, verdict.prove, over))
            except Exception as error:
                verdict.fail(error)
                raise

        try:
            await all_of(receive(engine, part) for engine, part in self._parts(incoming))
        except WorkerError as error:
            cause = _cause(error, verdict)
            if prove is None and isinstance(cause, UnprovableError):  # an engine that cannot wait for the others
                raise RoundMissedError(cause.problem) from None
            raise cause from None
        return max(paused_s)

    async def located(self, version: int, path: Path, content: checkpoint.Content) -> None:
        """See `Engine.located`."""
        await all_of(engine.located(version, path, content) for engine in self._engines)

    async def lost(self, version: int) -> None:
        """See `Engine.lost`."""
        await all_of(engine.lost(version) for engine in self._engines)

    def _parts(self, incoming: Incoming) -> list[tuple[Engine, Incoming]]:
        """What each engine must know of a round: the ranks of the next follow its own."""
        firsts = accumulate((engine.info.ranks for engine in self._engines), initial=incoming.first_rank)
        return [(engine, replace(incoming, first_rank=first)) for engine, first in zip(self._engines, firsts)]  # noqa: B905 - the last sum is what comes after them

    def collectors(self) -> Sequence[Collector]:
        """Those of all engines as one, told apart by a label."""
        engines = [engine.collectors() for engine in self._engines]
        return [ReplicaMetrics(engines=engines)] if any(engines) else []

    async def check(self) -> None:
        """Return once every engine has answered."""
        await all_of(engine.check() for engine in self._engines)

    async def close(self) -> None:
        """End the processes of all engines."""
        await all_of(engine.close() for engine in self._engines)

    async def _load(
        self, number: int, weights: _Weights, mode: SwapMode, content: checkpoint.Content, verdict: Verdict | None
    ) -> float:
        version, path, _ = weights
        self._loaded[number] = None  # unknown during the load: a cancelled load is still carried out
        prove = None if verdict is None else verdict.prove
        try:
            paused_s = await self._engines[number].load_checkpoint(version, path, mode, content, prove)
        except Exception as error:
            if verdict is not None:
                verdict.fail(error)
            raise
        self._loaded[number] = weights
        return paused_s

    @asynccontextmanager
    async def _counted(self, number: int, sequences: int) -> AsyncIterator[None]:
        self._running[number] += sequences
        try:
            yield
        finally:
            self._running[number] -= sequences


async def _nothing(_score: Score) -> None:
    """A version without a probe passes."""


def _cause(error: WorkerError, verdict: Verdict | None) -> Exception:
    """Why none has the version, where `error` may only say that another engine could not."""
    return error if isinstance(error, EngineDiedError) or verdict is None else verdict.cause or error
