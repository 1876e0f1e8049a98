"""Adapters in and out of vLLM: whole in the model, or certainly gone. Imported like `gate`."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import EngineDiedError, adapter_refused
from ...requests import Adapter
from .calls import Calls
from .loaded_adapters import LoadedAdapters, num_tensors
from .requests import lora_request


class Adapters:
    """The part of an engine over vLLM that has adapters. Its owner sets the attributes; `_adapters` knows which are
    loaded and used, and calls back to have vLLM add or remove one.
    """

    _llm: Any
    _calls: Calls
    _adapters: LoadedAdapters

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`; waits for the end of a swap. Raises `DataError` (`adapter_refused`)."""
        await self._adapters.load(adapter)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """See `Engine.unload_adapter`; waits for the end of a swap."""
        await self._adapters.unload(adapter)

    async def _add_lora(self, adapter: Adapter) -> None:
        """Raises `DataError` if the adapter is then not in the model as a whole, and what vLLM raises."""
        tensors = await asyncio.to_thread(num_tensors, adapter)
        request = lora_request(adapter)
        arguments = request.lora_name, request.lora_int_id, request.lora_path, tensors
        asked = self._llm.collective_rpc("rollstream_add_adapter", args=arguments)
        if problem := next(filter(None, await self._calls.utility(asked)), None):
            raise adapter_refused(adapter.name, problem)

    async def _forget_lora(self, adapter: Adapter, why: Exception) -> None:
        """Raises `EngineDiedError` unless the adapter is certainly gone: a later job might be sampled with a part."""
        asked = self._llm.collective_rpc("rollstream_forget_adapter", args=(adapter.int_id,))
        try:
            gone = all(await self._calls.utility(asked))
        except EngineDiedError:
            raise
        except Exception as error:
            # A failed utility call is a bare Exception in every vLLM.
            raise self._calls.died(f"adapter {adapter.name} was half loaded ({why}) and stays: {error}") from error
        if not gone:
            raise self._calls.died(f"adapter {adapter.name} was half loaded ({why}) and stays")

    async def _remove_lora(self, adapter: Adapter) -> None:
        await self._calls.utility(self._llm.remove_lora(adapter.int_id))
