"""Weights that come from the trainer's memory, as an `Engine` takes them. Imports no vLLM."""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from rollstream.schemas.wire.rounds import Backend

from ....engine import Incoming, Prove, SwapMode
from ....errors import EngineDiedError, RoundMissedError
from ....weights.checkpoint import Content
from ..calls import Calls
from .new_weights import Weights, at_once
from .swap import Swapper

VLLM_BACKENDS: dict[Backend, str] = {"nccl": "nccl", "gloo": "rollstream", "ipc": "rollstream"}
"""vLLM's names for what carries weights; `rollstream` reads from our links, see `linked_transfer`."""
_LOOK_S = 0.05


class Transfers:
    """The part of an engine over vLLM that takes part in rounds. Its owner sets the attributes when vLLM has started.

    vLLM's processes link in threads of their own and generate meanwhile: a link takes most of a second.
    """

    _llm: Any
    _calls: Calls
    _swapper: Swapper | None
    _swaps: set[asyncio.Task[float]]

    async def link(self, incoming: Incoming, over: asyncio.Event) -> None:
        """See `Engine.link`."""
        how = incoming.backend, incoming.meeting, incoming.first_rank, incoming.world_size, incoming.timeout_s
        until = time.monotonic() + incoming.timeout_s
        await self._ask("rollstream_link", how)
        while None in (outcomes := await self._ask("rollstream_linked")) and not any(outcomes):
            if over.is_set() or time.monotonic() >= until:
                await self._ask("rollstream_unlink")
                limit = f"in {incoming.timeout_s:g} s"
                raise RoundMissedError(f"not all parties came {'before it was over' if over.is_set() else limit}")
            await asyncio.sleep(_LOOK_S)
        if problem := next(filter(None, outcomes), ""):
            await self._ask("rollstream_unlink")
            raise RoundMissedError(problem)

    async def unlink(self) -> None:
        """See `Engine.unlink`."""
        await self._ask("rollstream_unlink")

    async def receive(
        self, version: int, incoming: Incoming, mode: SwapMode, prove: Prove | None, over: asyncio.Event
    ) -> float:
        """See `Engine.receive`. The pause is over when this returns or raises."""
        if self._swapper is None:
            raise EngineDiedError("the engine was never started")
        receiving = asyncio.create_task(self._receive(self._swapper, version, incoming, mode, prove, over))
        self._swaps.add(receiving)
        receiving.add_done_callback(self._swap_over)
        return await asyncio.shield(receiving)

    async def located(self, version: int, path: Path, content: Content) -> None:
        """See `Engine.located`."""
        if self._swapper is not None:
            await self._swapper.located(version, Weights(folder=path, content=content))

    async def lost(self, version: int) -> None:
        """See `Engine.lost`."""
        if self._swapper is not None:
            await self._swapper.lost(version)

    async def _receive(
        self,
        swapper: Swapper,
        version: int,
        incoming: Incoming,
        mode: SwapMode,
        prove: Prove | None,
        over: asyncio.Event,
    ) -> float:
        try:
            if over.is_set():
                raise RoundMissedError("it was over before the engine stood still")
            ready = partial(self._link_still, incoming, over) if mode == "wait" else at_once
            bring = partial(self._bring, incoming, over)
            return await swapper.receive(version, incoming.sent, bring, mode, prove, ready)
        finally:
            await self._ask("rollstream_unlink")

    async def _link_still(self, incoming: Incoming, over: asyncio.Event) -> None:
        """Once completions have ended here. The others generate meanwhile, since none is linked before all are."""
        if over.is_set():
            raise RoundMissedError("it was over before completions had ended here")
        await self.link(incoming, over)

    async def _bring(self, incoming: Incoming, over: asyncio.Event) -> None:
        """Raises what vLLM raises. EngineCore answers nothing meanwhile, so a file tells it that the round is over."""
        sent = incoming.sent
        with tempfile.TemporaryDirectory(prefix="rollstream-") as folder:
            broken = Path(folder, "over")
            telling = asyncio.create_task(_tell(over, broken))
            tensors = list(sent.names), list(sent.dtypes), [list(shape) for shape in sent.shapes]
            asked = self._llm.collective_rpc("rollstream_receive", args=(*tensors, incoming.timeout_s, str(broken)))
            try:
                await self._calls.load(asked)
            finally:
                telling.cancel()

    async def _ask(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        answers: list[Any] = await self._calls.utility(self._llm.collective_rpc(method, args=args))
        return answers

    def _swap_over(self, swapping: asyncio.Task[float]) -> None:
        self._swaps.discard(swapping)
        if not swapping.cancelled():
            swapping.exception()  # marks the error as seen if the caller was cancelled; it is in the log


async def _tell(over: asyncio.Event, broken: Path) -> None:
    await over.wait()
    await asyncio.to_thread(broken.touch)
