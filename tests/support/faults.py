"""The fault kit: a TCP link that can be frozen, cut or lose a reply, and the audit that says what survived it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from rollstream.producer.demo.embedded_redis import free_port
from rollstream.schemas import DeadLetter, GroupError, GroupResult, Keys, Sealed, decode
from rollstream.schemas.keys import GROUP
from tests.support.weights.loss import Loss, Requests

T = TypeVar("T")
CHUNK = 64 * 1024


class Link:
    """TCP between one worker and Redis, on a port and an event loop of its own. Every method works from any thread.

    As a context manager it passes bytes until told otherwise. A frozen link delivers what it was given once it thaws,
    even when the sender has gone by then, as a network does.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = urlsplit(redis_url)
        self._port = free_port()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="link", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loss: Loss | None = None
        self._stop_before: tuple[bytes, int] | None = None
        self._budget: int | None = None
        self._budget_from: tuple[bytes, int, int] | None = None
        self.delay_s = 0.0
        """How long each piece of a reply takes."""
        self.lost = 0
        """Replies that Redis sent and that reached no client."""
        self.requests: bytearray | None = None
        """All that passes towards Redis, once this is set."""
        self.stopped = threading.Event()
        """Set once the call that the link was to stop at has come."""

    @property
    def url(self) -> str:
        """What the worker takes for Redis."""
        return urlunsplit(self._redis._replace(netloc=f"127.0.0.1:{self._port}"))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the link did not start"
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def freeze(self) -> None:
        """Bytes stop both ways, connections stay, new ones are accepted and hear nothing."""
        self._call(self._set_flowing(flowing=False))

    def thaw(self) -> None:
        """Bytes flow again, those that were on their way first."""
        self._call(self._set_flowing(flowing=True))

    def drop(self) -> None:
        """Close every connection and refuse new ones."""
        self._call(self._drop())

    def restore(self) -> None:
        """Accept connections again after `drop`."""
        self._call(self._listen())

    def lose_reply(self, *, to: bytes = b"", holding: bytes = b"", nth: int = 1) -> None:
        """Once: swallow the `nth` reply with the bytes `holding` to a request with the bytes `to`, and hang up."""
        self._loss = Loss(to, holding, nth)

    def stop_at(self, call: bytes, nth: int = 1, *, answered: bool, holding: bytes = b"") -> None:
        """Let nothing pass any more from the `nth` request with the bytes `call` on, which does not reach Redis itself.

        `answered`: it does, and its reply with the bytes `holding` is the first thing that does not pass.
        """
        if answered:
            self._loss = Loss(call, holding, nth, stop=True)
        else:
            self._stop_before = (call, nth)

    def cut_after(self, num_bytes: int) -> None:
        """Pass this many bytes more towards Redis, then do as `drop` at the next, in the midst of a command or not."""
        self._budget = num_bytes

    def cut_in(self, call: bytes, nth: int, num_bytes: int) -> None:
        """As `cut_after`, counted from the beginning of the `nth` request with the bytes `call`."""
        self._budget_from = (call, nth, num_bytes)

    def _call(self, action: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended, self._flowing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        await self._listen()
        self._started.set()
        await self._ended.wait()
        await self._drop()

    async def _set_flowing(self, *, flowing: bool) -> None:
        (self._flowing.set if flowing else self._flowing.clear)()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)

    async def _drop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the worker, joined to one of ours until either side or the link ends it."""
        with contextlib.suppress(asyncio.CancelledError):  # Python 3.11 logs a connection that is cancelled as an error
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            redis_reader, redis_writer = await asyncio.open_connection(self._redis.hostname, self._redis.port)
        except OSError:  # Redis is away: the worker is to see what it would see without us
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(redis_writer)
        requests = Requests()
        pumps = [
            asyncio.create_task(self._pass_requests(reader, redis_writer, requests)),
            asyncio.create_task(self._pass_replies(redis_reader, writer, requests)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, redis_writer):
                end.close()
                self._writers.discard(end)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Requests
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                requests.add(data)
                if self._comes_to_stop(data):
                    await self._stop()
                await self._flowing.wait()
                self._begin_to_count(data)
                passed = data if self._budget is None else data[: self._budget]
                writer.write(passed)
                await writer.drain()
                self._count(passed)
                if len(passed) < len(data):
                    await self._drop()

    async def _pass_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Requests
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._loss is not None and self._loss.meets(requests, data):
                    self.lost += 1
                    if self._loss.stop:
                        await self._stop()
                    self._loss = None
                    return
                requests.is_answered = True
                await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()

    def _comes_to_stop(self, data: bytes) -> bool:
        if self._stop_before is None or self._stop_before[0] not in data:
            return False
        call, nth = self._stop_before
        self._stop_before = (call, nth - 1)
        return nth == 1

    def _begin_to_count(self, data: bytes) -> None:
        if self._budget_from is not None and self._budget_from[0] in data:
            call, nth, num_bytes = self._budget_from
            self._budget_from = (call, nth - 1, num_bytes)
            self._budget = num_bytes if nth == 1 else self._budget

    async def _stop(self) -> None:
        self._flowing.clear()
        self.stopped.set()
        await self._ended.wait()

    def _count(self, passed: bytes) -> None:
        if self.requests is not None:
            self.requests += passed
        if self._budget is not None:
            self._budget -= len(passed)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an entry, by Redis' own account."""

    consumer: str
    deliveries: int


class Queue:
    """What Redis knows of a policy's one partition, read past every link. Close after use, or use as `with`."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self.redis = redis.Redis.from_url(redis_url)
        self.keys = Keys(policy)
        self.jobs_key = self.keys.jobs(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.redis.close()

    def holders(self) -> dict[str, Holder]:
        """Pending entries by entry id, oldest first; none when the consumer group is not there."""
        try:
            rows = cast("list[dict[str, Any]]", self.redis.xpending_range(self.jobs_key, GROUP, "-", "+", 10_000))
        except redis.ResponseError:
            return {}
        return {
            row["message_id"].decode(): Holder(row["consumer"].decode(), int(row["times_delivered"])) for row in rows
        }

    def idle_s(self) -> float:
        """Seconds since the oldest pending entry was delivered or renewed, by Redis' clock."""
        rows = cast("list[dict[str, Any]]", self.redis.xpending_range(self.jobs_key, GROUP, "-", "+", 1))
        return rows[0]["time_since_delivered"] / 1000 if rows else 0.0

    def entries(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Entry ids and fields of the jobs stream."""
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(self.jobs_key))
        return [(entry_id.decode(), fields) for entry_id, fields in entries]

    def consumers(self) -> dict[str, int]:
        """Names in the consumer group, with how many entries are pending."""
        rows = self.redis.xinfo_consumers(self.jobs_key, GROUP)
        return {row["name"].decode(): int(row["pending"]) for row in rows}

    def answers(self, batch_id: str) -> list[GroupResult | GroupError | Sealed]:
        """All records of a batch, as they stand in its result stream."""
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(self.keys.results(batch_id)))
        kinds: tuple[type[GroupResult | GroupError | Sealed], ...] = (GroupResult, GroupError, Sealed)
        return [decode(fields[b"payload"], *kinds) for _, fields in entries]

    def done(self, batch_id: str) -> int:
        """Groups with an answer."""
        return int(cast("bytes | None", self.redis.hget(self.keys.ledger(batch_id), "done")) or 0)

    def dead(self) -> list[tuple[DeadLetter, bytes]]:
        """Dead letters, each with its payload."""
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(self.keys.dead(0)))
        return [(decode(fields[b"letter"], DeadLetter), fields[b"payload"]) for _, fields in entries]


def audit(redis_url: str, policy: str, batch_id: str, num_groups: int) -> list[GroupResult | GroupError]:
    """The answers by group, after checking: one terminal record a group, then `sealed`, and nothing pending."""
    with Queue(redis_url, policy) as queue:
        *answers, last = queue.answers(batch_id)
        assert isinstance(last, Sealed), f"the last record is no seal: {last}"
        assert last.num_groups == num_groups
        groups = sorted(answer.group for answer in answers if not isinstance(answer, Sealed))
        assert groups == list(range(num_groups)), f"lost, doubled or strange: {groups}"
        assert len(answers) == num_groups, "sealed more than once"
        assert queue.done(batch_id) == num_groups
        assert queue.holders() == {}
    return sorted((answer for answer in answers if not isinstance(answer, Sealed)), key=lambda answer: answer.group)
