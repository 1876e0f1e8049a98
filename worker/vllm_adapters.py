"""No request reaches vLLM with an adapter that vLLM could not read: it would end the engine. Imports no vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from schemas import ErrorCode
from worker.engine import Adapter
from worker.errors import DataError, EngineDiedError

log = structlog.get_logger()


class LoadedAdapters:
    """Which adapters vLLM has, and which requests use them; `add` is its `add_lora`, `remove` its `remove_lora`.

    New weights take vLLM's adapters away: `changing` keeps others from loading one meanwhile, and `restore` brings
    back what was there.
    """

    def __init__(
        self, add: Callable[[Adapter], Awaitable[object]], remove: Callable[[Adapter], Awaitable[object]]
    ) -> None:
        self._add = add
        self._remove = remove
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._adapters: dict[int, Adapter] = {}
        self._used: dict[str, int] = {}
        self._lost: set[str] = set()
        self.changing = asyncio.Lock()

    @property
    def any(self) -> bool:
        """Whether any was ever loaded."""
        return bool(self._adapters)

    async def load(self, adapter: Adapter) -> None:
        """Load it once, whoever else waits for it. Raises `DataError` (`adapter_refused`); it may then be tried again.

        A request that names an adapter which vLLM cannot read kills the engine; `add_lora` only refuses it.
        """
        loading = self._loading.get(adapter.int_id)
        if loading is None:
            loading = self._loading[adapter.int_id] = asyncio.create_task(self._load(adapter))
            loading.add_done_callback(lambda task: self._forget_failed(adapter, task))
        await asyncio.shield(loading)

    async def unload(self, adapter: Adapter) -> None:
        """Forget one that no request uses, and take it from vLLM if it still has it. Raises `EngineDiedError`."""
        async with self.changing:
            self._loading.pop(adapter.int_id, None)
            if self._adapters.pop(adapter.int_id, None) is None:
                return
            try:
                await self._remove(adapter)
            except EngineDiedError:
                raise
            except Exception as error:  # noqa: BLE001 - a failed utility call is a bare Exception in every vLLM
                log.warning("adapter not removed from the engine", adapter=adapter.name, error=str(error))

    @contextmanager
    def in_use(self, request_id: str, adapter: Adapter | None) -> Iterator[None]:
        """While vLLM may have the request."""
        if adapter is None:
            yield
            return
        self._used[request_id] = adapter.int_id
        try:
            yield
        finally:
            self._used.pop(request_id, None)
            self._lost.discard(request_id)

    def refuse_lost(self, request_id: str) -> None:
        """Raises `DataError` when the request was ended because its adapter could not be loaded again."""
        if request_id in self._lost:
            problem = "the adapter's files were gone when new weights had dropped it from the engine; publish it again"
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", problem)

    async def restore(self, listed: frozenset[int]) -> list[str]:
        """Load again what vLLM had (`listed`) or what requests use; gives the requests whose adapter is lost.

        Holds for the time of `changing`. Raises `EngineDiedError`.
        """
        gone = set()
        for int_id in sorted(listed | set(self._used.values())):
            adapter = self._adapters.get(int_id)
            if adapter is None:
                continue
            try:
                await self._add_checked(adapter)
            except DataError as error:
                log.warning("adapter lost in a swap", adapter=adapter.name, error=str(error))
                self._loading.pop(int_id, None)
                gone.add(int_id)
        lost = [request_id for request_id, int_id in self._used.items() if int_id in gone]
        self._lost.update(lost)
        return lost

    async def _load(self, adapter: Adapter) -> None:
        async with self.changing:
            await self._add_checked(adapter)
            self._adapters[adapter.int_id] = adapter

    async def _add_checked(self, adapter: Adapter) -> None:
        try:
            await self._add(adapter)
        except EngineDiedError:
            raise
        except Exception as error:
            # A failed utility call is a bare Exception in every vLLM.
            reason = str(error).replace(str(adapter.path), adapter.name)
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"adapter {adapter.name!r}: {reason}") from error

    def _forget_failed(self, adapter: Adapter, loading: asyncio.Task[None]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            self._loading.pop(adapter.int_id, None)
