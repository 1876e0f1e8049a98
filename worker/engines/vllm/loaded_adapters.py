"""No request reaches vLLM with an adapter that it cannot read, which would kill the engine. Imports no vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from rollstream.schemas import ErrorCode
from rollstream.schemas.weights.adapter_config import WEIGHTS_FILE

from ...errors import DataError, EngineDiedError, adapter_refused
from ...requests import Adapter
from ...weights.adapter_content import AdapterContent, Looks, look, read_content, still
from ...weights.safetensors_header import HeaderError, read_header

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An adapter that was loaded, and what its files held then."""

    adapter: Adapter
    content: AdapterContent


class LoadedAdapters:
    """Which adapters vLLM has, and which requests use them. `add` loads one, `remove` is vLLM's `remove_lora`.

    `forget` removes what a failed `add` left behind, or raises `EngineDiedError`.

    New weights remove vLLM's adapters: `changing` is held so that none is loaded meanwhile, and `restore` brings the
    adapters back. vLLM also drops the least recently used and reads it again at its next request, so the files of each
    must stay as they were.

    All of it changes in the worker's event loop. `_known`, what vLLM has, gains and loses adapters while `changing`
    is held; `_loading` has a task for each adapter from its first use on, failed ones are forgotten; `_used` and
    `_lost` change as requests begin, end or lose their adapter; a refusal stays until the adapter's files change or
    it is unloaded.
    """

    def __init__(
        self,
        *,
        add: Callable[[Adapter], Awaitable[object]],
        remove: Callable[[Adapter], Awaitable[object]],
        forget: Callable[[Adapter, Exception], Awaitable[object]],
    ) -> None:
        self._add = add
        self._remove = remove
        self._forget = forget
        self._refused: dict[int, tuple[Looks, str]] = {}
        """Refused adapters: their files and what is wrong, so that the engine is not stopped to find out again."""
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._known: dict[int, _Known] = {}
        self._used: dict[str, int] = {}
        self._lost: set[str] = set()
        self.changing = asyncio.Lock()

    def __len__(self) -> int:
        """The number of adapters that were loaded and not unloaded."""
        return len(self._known)

    async def load(self, adapter: Adapter) -> None:
        """Load the adapter once, for all that wait for it. After `DataError` (`adapter_refused`) it may be tried again.

        A request with an adapter that vLLM cannot read kills the engine; a failed `add` only refuses the adapter.
        """
        await self._check_unchanged(adapter)
        loading = self._loading.get(adapter.int_id)
        if loading is None:
            loading = self._loading[adapter.int_id] = asyncio.create_task(self._load(adapter))
            loading.add_done_callback(lambda task: self._forget_failed(adapter, task))
        await asyncio.shield(loading)

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter and remove it from vLLM, unless a request uses it.

        Raises `EngineDiedError`.
        """
        async with self.changing:
            if adapter.int_id in self._used.values():
                return
            self._loading.pop(adapter.int_id, None)
            self._refused.pop(adapter.int_id, None)
            if self._known.pop(adapter.int_id, None) is None:
                return
            try:
                await self._remove(adapter)
            except EngineDiedError:
                raise
            except Exception as error:  # noqa: BLE001 - a failed utility call is a bare Exception in every vLLM
                log.warning("adapter not removed from the engine", adapter=adapter.name, error=str(error))

    @contextmanager
    def in_use(self, request_id: str, adapter: Adapter | None) -> Iterator[None]:
        """Entered while vLLM may have the request."""
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
            problem = "its files were gone or changed when new weights had dropped it from the engine; publish it again"
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"the adapter: {problem}")

    async def restore(self, listed: frozenset[int]) -> list[str]:
        """Load again the adapters that vLLM had (`listed`) or requests use. Returns requests whose adapter is lost.

        Call it while holding `changing`. Raises `EngineDiedError`.
        """
        gone = set()
        for int_id in sorted(listed | set(self._used.values())):
            known = self._known.get(int_id)
            if known is None:
                continue
            try:
                await self._check_unchanged(known.adapter)
                await self._add_checked(known.adapter)
            except DataError as error:
                log.warning("adapter lost in a swap", adapter=known.adapter.name, error=str(error))
                self._loading.pop(int_id, None)
                gone.add(int_id)
        lost = [request_id for request_id, int_id in self._used.items() if int_id in gone]
        self._lost.update(lost)
        return lost

    async def _load(self, adapter: Adapter) -> None:
        async with self.changing:
            content = await asyncio.to_thread(read_content, adapter.path)  # before vLLM reads them
            await self._add_checked(adapter)
            self._known.setdefault(adapter.int_id, _Known(adapter=adapter, content=content))

    async def _check_unchanged(self, adapter: Adapter) -> None:
        known = self._known.get(adapter.int_id)
        if known is None or look(adapter.path) == known.content.looks:
            return
        content = await asyncio.to_thread(still, adapter.path, known.content)
        if content is None:
            raise adapter_refused(
                adapter.name, "its files are gone or changed since it was loaded; publish another version"
            )
        if adapter.int_id in self._known:  # not unloaded meanwhile
            self._known[adapter.int_id] = _Known(adapter=adapter, content=content)

    async def _add_checked(self, adapter: Adapter) -> None:
        looks = look(adapter.path)
        refused, message = self._refused.get(adapter.int_id, (None, ""))
        if refused == looks:
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", message)
        try:
            await self._add(adapter)
        except EngineDiedError:
            raise
        except DataError as error:
            await self._forget(adapter, error)
            self._refused[adapter.int_id] = looks, error.message
            raise
        except Exception as error:
            # A failed utility call is a bare Exception in every vLLM.
            await self._forget(adapter, error)
            raise adapter_refused(adapter.name, str(error).replace(str(adapter.path), adapter.name)) from error

    def _forget_failed(self, adapter: Adapter, loading: asyncio.Task[None]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            self._loading.pop(adapter.int_id, None)


def num_tensors(adapter: Adapter) -> int:
    """The number of tensors in the adapter's file. Blocks. Raises `DataError` for a file that cannot be read."""
    try:
        return len(read_header(adapter.path / WEIGHTS_FILE))
    except HeaderError as error:
        raise adapter_refused(adapter.name, str(error)) from None
