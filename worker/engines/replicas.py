"""Several engines of one worker on one GPU: one admission budget and one set of leases in front, dying together.

One engine with a small model is bound by the Python of its own process and leaves the chip idle; several share it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import WorkerSettings
from ..engine import Adapter, Completion, Engine, EngineInfo, GenerateRequest, NextTokens, SwapMode
from ..errors import DataError, EngineDiedError
from ..weights import checkpoint

_Weights = tuple[int, Path, str | None]
"""A version, and the files that it was loaded from."""


def settings_of_one(settings: WorkerSettings) -> WorkerSettings:
    """For each of the replicas: the worker's memory is shared out evenly; `max_num_seqs` is each one's own."""
    share = {
        "gpu_memory_utilization": settings.gpu_memory_utilization / settings.replicas,
        "kv_cache_bytes": None if settings.kv_cache_bytes is None else settings.kv_cache_bytes // settings.replicas,
    }
    return settings.model_copy(update=share)


class Replicas:
    """An `Engine` (see `worker.engine`) over several that serve the same model with the same settings.

    A call that concerns the weights goes to all of them; a group to the one that runs the fewest sequences; the steps
    of a beam search all to the same one, which has their prefix in its cache.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._running = [0] * len(self._engines)
        self._loaded: list[_Weights | None] = [None] * len(self._engines)

    @property
    def info(self) -> EngineInfo:
        """Of any of them, but for `max_num_seqs`: what all of them together run at once."""
        infos = [engine.info for engine in self._engines]
        return replace(infos[0], max_num_seqs=sum(info.max_num_seqs for info in infos))

    @property
    def policy_version(self) -> int:
        """The oldest: what every new request is sampled with at least."""
        return min(engine.policy_version for engine in self._engines)

    async def start(self) -> None:
        """One after the other: engines that start at the same moment take each other's memory for their own."""
        for engine in self._engines:
            await engine.start()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """See `Engine.generate`; on the engine that runs the fewest sequences."""
        number = min(range(len(self._engines)), key=self._running.__getitem__)
        async with self._counted(number, request.config.num_return_sequences):
            return await self._engines[number].generate(request)

    async def next_tokens(self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None) -> NextTokens:
        """See `Engine.next_tokens`. The steps of a search have one `request_id` but for what follows its last `/`."""
        number = zlib.crc32(request_id.rpartition("/")[0].encode()) % len(self._engines)
        async with self._counted(number, 1):
            return await self._engines[number].next_tokens(request_id, prompt, k, adapter)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Into every engine, for a group may go to any; into none when one of them refuses it. Raises `DataError`."""
        loaded: list[Engine] = []

        async def load(engine: Engine) -> None:
            await engine.load_adapter(adapter)
            loaded.append(engine)

        try:
            await _all(load(engine) for engine in self._engines)
        except DataError:
            await _all(engine.unload_adapter(adapter) for engine in loaded)
            raise

    async def unload_adapter(self, adapter: Adapter) -> None:
        """From every engine."""
        await _all(engine.unload_adapter(adapter) for engine in self._engines)

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: checkpoint.Content | None = None
    ) -> None:
        """Into every engine that did not load these very files as `version` yet, at the same time.

        Raises as `Engine.load_checkpoint` does, once all are done. Where only some could load it, those serve it, and
        `version_spans` say so; `policy_version` stays the old one until a later call has made the others follow. The
        version alone tells nothing: one that is announced anew may be other weights.
        """
        read = await asyncio.to_thread(checkpoint.read_content, path) if content is None else content
        weights = version, path, read.sha256
        behind = [number for number, loaded in enumerate(self._loaded) if loaded != weights]
        await _all(self._load(number, weights, mode, read) for number in behind)

    async def check(self) -> None:
        """Return once every engine has answered."""
        await _all(engine.check() for engine in self._engines)

    async def close(self) -> None:
        """End the processes of all."""
        await _all(engine.close() for engine in self._engines)

    async def _load(self, number: int, weights: _Weights, mode: SwapMode, content: checkpoint.Content) -> None:
        version, path, _ = weights
        self._loaded[number] = None  # not known while it is under way: a cancelled one is carried through
        await self._engines[number].load_checkpoint(version, path, mode, content)
        self._loaded[number] = weights

    @asynccontextmanager
    async def _counted(self, number: int, sequences: int) -> AsyncIterator[None]:
        self._running[number] += sequences
        try:
            yield
        finally:
            self._running[number] -= sequences


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Return once all have; the first error is raised when all are done, a death at once, the others cancelled."""
    errors: list[BaseException] = []
    running = {asyncio.create_task(call) for call in calls}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            errors += [error for task in done if (error := task.exception()) is not None]
            for error in errors:
                if isinstance(error, EngineDiedError):
                    raise error
    finally:
        for task in running:
            task.cancel()
    if errors:
        raise errors[0]
