"""A batch under way, whatever is asked of it: its groups as they finish, how many there are, the end of waiting."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from typing import Any, Generic, NoReturn, TypeVar

from rollstream.schemas import Keys, Sealed
from rollstream.schemas.wire.scores import Description

from ..calls.arguments import Reading
from ..calls.patience import Patience
from ..errors import ResultTimeoutError, handle_stays
from ..progress import progress_bar
from ..redis_io.connection import Connection
from .cancel import cancel_batch
from .cut_groups import after_seconds, cut_groups, group_numbers
from .read_answers import AnyAnswer, Fields
from .results_reader import ResultsReader
from .submit_jobs import Resubmission
from .waited_for import waiting_for
from .waiting_facts import read_facts

_ASK_S = 2.0
"""Seconds to wait for Redis to tell what a batch waits for."""

D = TypeVar("D", bound=Description)
A = TypeVar("A", bound=AnyAnswer)


class AnyHandle(ABC, Generic[D, A]):
    """A batch that was submitted or attached to. It keeps what it has read, so all calls may be repeated.

    Two handles on one batch of one policy are equal. Reading raises `UnreadableResultError` if the batch is sealed and
    a group has no readable answer, `UnknownBatchError` if the results expired or were deleted, `LostJobsError` if its
    jobs were removed from the queue by hand or lost by a failover, and `RedisUnavailableError` if Redis is away longer
    than the client's `reconnect_s`.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        batch: D,
        attached: bool = False,
        again: Resubmission[Any] | None = None,
        seen: Callable[[A], None] | None = None,
    ) -> None:
        """`again`: what queues the batch again after a failover; None: it was queued elsewhere. `seen`: gets each
        answer that is read.
        """
        self.batch = batch
        """The description of the batch, without the prompts or rows."""
        self._identity = (keys.policy, batch.batch_id)
        self._connection = connection
        self._keys = keys
        self._attached = attached
        read = partial(self._read_answer, batch)  # which does not refer to the handle, so that it is collected at once
        read = read if seen is None else partial(_shown_to, seen, read)
        again = again or Resubmission(connection=connection, keys=keys)
        self.is_repeat = again.is_repeat
        """Whether an earlier submit had queued the whole batch, so that this one changed nothing."""
        self._reader = ResultsReader[A](
            connection=connection, keys=keys, batch=batch, read=read, was_queued=not attached, again=again
        )

    @staticmethod
    @abstractmethod
    def _read_answer(batch: D, entry: bytes, fields: Fields) -> A | Sealed:
        """The answer in an entry. Raises `UnreadableResultError`."""

    @property
    def batch_id(self) -> str:
        """The batch's id, for `attach` in another process."""
        return self.batch.batch_id

    @property
    def num_groups(self) -> int:
        """The number of prompts, or of rows."""
        return self.batch.num_groups

    async def groups(self, timeout: float | None = None) -> AsyncIterator[A]:
        """Each group once, as it finishes; ends after the last. Goes on after a reconnect; a second call starts over.

        `timeout`: seconds from the first request until the last group. Raises `ResultTimeoutError`.
        """
        timeout, *_ = Reading.of_wait(timeout, False)
        clock, position = asyncio.get_running_loop().time, 0
        began = clock()
        while position < self.num_groups:
            for answer in await self.groups_from(position, timeout, clock() - began):
                position += 1
                yield answer

    async def groups_from(self, position: int, timeout: float | None = None, waited: float = 0.0) -> list[A]:
        """Wait until more than `position` groups have finished; returns those after it, in finish order.

        `waited`: seconds of `timeout` that have passed already.
        """
        timeout, *_ = Reading.of_wait(timeout, False)
        async with self._in_time(timeout, waited):
            await self._reader.wait_beyond(position)
        return self._reader.answers[position:]

    async def finished(self) -> list[A]:
        """The groups that have finished by now, in finish order. Does not wait."""
        await self._reader.read_available()
        return list(self._reader.answers)

    async def done(self) -> int:
        """How many groups have finished: one small read, without the results."""
        return await self._reader.count_done()

    async def cancel(self, groups: Iterable[int] | None = None, after: float | None = None) -> int:
        """Answer every unanswered group with an error of code `cancelled`. Returns their number.

        `groups`: cut only groups of these numbers, with an error of code `not_needed`; the batch goes on with the
        others, and is complete once these have their answers. `after`: wait up to so many seconds until the batch, or
        all of `groups`, have been answered, and then cancel what has not.

        Works without any worker; workers that run the batch stop. Groups with an answer keep it, so that `result`
        returns at once, with the cancelled groups in `errors`. 0: the batch was complete, and nothing was changed.
        If it failed half-way, call it again: it counts all cancelled groups, whichever call cancelled them. Beyond the
        first 256 groups a worker may see the cancel and answer a group as cancelled first; those are not counted.
        Raises `ArgumentError`, `UnknownBatchError`, `RedisUnavailableError`, and with `after` what reading raises.
        """
        numbers = None if groups is None else group_numbers(groups, self.num_groups)
        if after is not None:
            await self._answered(range(self.num_groups) if numbers is None else numbers, after_seconds(after))
        if numbers is None:
            return await cancel_batch(self._connection, self._keys, self.batch)
        return await cut_groups(self._connection, self._keys, self.batch, numbers)

    async def _answered(self, groups: Iterable[int], within_s: float) -> None:
        """Return once all of these groups have an answer, or after so many seconds."""
        wanted = set(groups)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not wanted <= self._reader.by_group.keys():
                    await self._reader.wait_beyond(len(self._reader.answers))

    async def wait(self, timeout: float | None = None, progress: bool = False) -> dict[int, A]:
        """Wait as `result` does; returns the answers by group number. Needs no torch."""
        timeout, progress, *_ = Reading.of_wait(timeout, progress)
        bar = progress_bar(self.batch_id, self.num_groups) if progress else nullcontext(lambda _done: None)
        async with self._in_time(timeout) as patience:
            with bar as show:
                await self._wait_for_all(show, patience)
        return dict(self._reader.by_group)

    async def _wait_for_all(self, show: Callable[[int], None], patience: Patience) -> None:
        while not self._reader.complete:
            show(len(self._reader.answers))
            await self._reader.wait_beyond(len(self._reader.answers))
            patience.progressed()
        show(self.num_groups)

    @asynccontextmanager
    async def _in_time(self, timeout: float | None, waited: float = 0.0) -> AsyncIterator[Patience]:
        """Around a wait, which then tells what it waits for. Raises `ResultTimeoutError`."""
        left = None if timeout is None else max(0.0, timeout - waited)
        async with Patience(
            what=f"batch {self.batch_id!r}", ask=self._ask, timeout=left, said=self._connection.said
        ) as patience:
            try:
                async with asyncio.timeout(left):
                    yield patience
            except TimeoutError:
                done = len(self._reader.by_group)
                raise ResultTimeoutError(self.batch_id, done, self.num_groups, timeout or 0, patience.told) from None

    async def _ask(self) -> str:
        async with self._connection.asking, asyncio.timeout(_ASK_S):  # one at a time, however many handles wait
            return waiting_for(await read_facts(self._connection, self._keys, self.batch))

    def __reduce__(self) -> NoReturn:
        raise TypeError(handle_stays(type(self).__name__, self.batch_id))

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, AnyHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} batch_id={self.batch_id} {len(self._reader.by_group)}/{self.num_groups} groups>"


def _shown_to(
    seen: Callable[[A], None], read: Callable[[bytes, Fields], A | Sealed], entry: bytes, fields: Fields
) -> A | Sealed:
    answer = read(entry, fields)
    if not isinstance(answer, Sealed):
        seen(answer)
    return answer


async def load_torch() -> None:
    """Import torch in a thread: that takes seconds, in which the event loop would read nothing from Redis."""
    if "torch" not in sys.modules:
        with suppress(ImportError):  # who makes tensors raises the error
            await asyncio.to_thread(import_module, "torch")
