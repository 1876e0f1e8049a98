"""Requests under way: what was queued for each, and what becomes of it when its client goes or time is up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rollstream.schemas import RollstreamError

from ..batches.handle import BatchHandle
from ..observe.served import Served
from .errors import ApiError
from .faults import DEFECT, ending, late, problem_of
from .tokenizing import Tokenizing

_CANCEL_S = 10.0
"""So long a batch that nobody waits for is tried to be cancelled; its queue deadline ends it in any case."""

log = logging.getLogger("rollstream")


def logged_problem(error: RollstreamError, batch_id: str = "") -> ApiError:
    """The answer that an error is; the log has what a client is not told: where Redis is, and the cause."""
    problem = problem_of(error, batch_id)
    if problem.status >= 500 and not isinstance(error, ApiError):
        of_batch, trace = f"batch {batch_id}: " if batch_id else "", error if problem.problem == DEFECT else None
        log.warning("gateway: %s%s", of_batch, error, exc_info=trace)
    return problem


class Orders:
    """All requests of a gateway. `closing` is set when it is told to end: each is then answered at once."""

    def __init__(self, *, timeout_s: float, tokenizing: Tokenizing, served: Served) -> None:
        self.timeout_s = timeout_s
        self.tokenizing = tokenizing
        self.served = served
        self.closing = asyncio.Event()
        self._left: set[asyncio.Task[None]] = set()

    def order(self, submit: Callable[[], Coroutine[Any, Any, BatchHandle]], *, again: bool) -> Order:
        """Submit, in a task of its own. `again`: whether it can be asked for again, so that it outlives its client."""
        return Order(submitting=asyncio.create_task(submit()), again=again, orders=self)

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with it though nobody waits."""
        task = asyncio.create_task(work)
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def ended(self) -> None:
        """Wait until nothing goes on behind."""
        if self._left:
            await asyncio.wait(self._left, timeout=_CANCEL_S)


class Order:
    """One request: from its submit to its answer."""

    def __init__(self, *, submitting: asyncio.Task[BatchHandle], again: bool, orders: Orders) -> None:
        self._submitting = submitting
        self._again = again
        self._orders = orders
        self._until = asyncio.get_running_loop().time() + orders.timeout_s
        self._is_over = False

    @property
    def batch_id(self) -> str:
        """The batch that was queued; empty if none was yet."""
        is_queued = self._submitting.done() and not self._submitting.cancelled() and not self._submitting.exception()
        return self._submitting.result().batch_id if is_queued else ""

    async def handle(self) -> BatchHandle:
        """What was queued. Raises `ApiError`."""
        queued: BatchHandle = await self.first(asyncio.shield(self._submitting))
        return queued

    async def first(self, work: Awaitable[Any], *others: asyncio.Future[Any]) -> Any:
        """What `work` gives, or None once any of `others` is done before it.

        Raises `ApiError`, also when time is up or the gateway ends: then the batch is given up.
        """
        task = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._orders.closing.wait())
        left = max(0.0, self._until - asyncio.get_running_loop().time())
        try:
            await asyncio.wait({task, closing, *others}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if any(other.done() for other in others):
                return None
            is_tokenized = self._is_tokenized
            self.give_up()
            if closing.done():
                raise ending(self.batch_id)
            lack = self._orders.served.lack
            raise late(self.batch_id, self._orders.timeout_s, again=self._again, is_tokenized=is_tokenized, lack=lack)
        except ApiError:
            raise
        except RollstreamError as error:
            if self.batch_id:
                self.give_up()
            raise logged_problem(error, self.batch_id) from error
        finally:
            closing.cancel()
            if task is not work:
                task.cancel()

    def give_up(self) -> None:
        """Nobody waits any more: cancel what was queued, unless it can be asked for again. May be called twice."""
        if self._is_over or self._again:
            return
        self._is_over = True
        if self._is_tokenized:  # nothing is queued yet
            self._submitting.cancel()
        else:
            self._orders.behind(self._cancelled())

    @property
    def _is_tokenized(self) -> bool:
        """Whether it waits for the tokenizer."""
        return self._orders.tokenizing.has(self._submitting)

    async def _cancelled(self) -> None:
        try:
            async with asyncio.timeout(_CANCEL_S):
                handle = await self._submitting
                await handle.cancel()
        except (RollstreamError, TimeoutError) as error:
            log.warning("gateway: a batch that nobody waits for is not cancelled: %s", error or "Redis is silent")
        else:
            log.info("gateway: batch %s cancelled: nobody waits for it", handle.batch_id)
