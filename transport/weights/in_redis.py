"""The policy's own Redis as its weight store: bounded by a quota, and every item expires unless it is renewed.

A hash is the index: names, sizes and times. So nothing is searched for, and the sum of all sizes is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas.hashes.stored_index import TOTAL_FIELD, index_entry
from rollstream.schemas.keys import Keys
from rollstream.schemas.times import WEIGHTS_TTL_S
from rollstream.schemas.weights.delta import MIN_CHUNK_BYTES

from ..redis.faults import fault_of, text_of
from ..redis.limits import read_limits
from . import scripts
from .errors import StoreProblem, WeightStoreError
from .store import Stored, check_item, is_item

QUOTA_BYTES = 8 * 2**30
"""Most bytes of all items, unless the trainer sets another bound."""
CHUNK_BYTES = 4 * 2**20
_SCRIPT_BYTES = 8 * 2**10
"""At most so many bytes has a put besides its item."""
_AT_ONCE = 500
"""Items that are asked for, renewed or removed in one round trip: Redis serves others in between."""
_WHERE = "in Redis"

T = TypeVar("T")


class RedisCall(Protocol):
    """Runs a command that is safe to send twice; `what` is for errors. A client may repeat it while Redis is away."""

    async def __call__(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer."""


class RedisStore:
    """A `WeightStore` in the policy's Redis. Errors that are not redis-py's own pass `call` unchanged."""

    def __init__(self, *, keys: Keys, call: RedisCall, quota_bytes: int = QUOTA_BYTES) -> None:
        self._keys = keys
        self._call = call
        self._quota = quota_bytes

    @property
    def where(self) -> str:
        """See `WeightStore`."""
        return _WHERE

    async def chunk_bytes(self) -> int:
        """See `WeightStore`."""
        limits = await self._ask("read the limits", read_limits)
        told = [limit for limit in (limits.argument, limits.command - _SCRIPT_BYTES) if limit > 0]
        fits = min([CHUNK_BYTES, *told])
        if fits < MIN_CHUNK_BYTES:
            problem = f"it takes at most {fits} bytes at once, a chunk has {MIN_CHUNK_BYTES} or more"
            advice = "raise its proto-max-bulk-len and client-query-buffer-limit"
            raise WeightStoreError("write weights", _WHERE, problem, StoreProblem.PLACE, advice)
        return fits

    async def put(self, name: str, data: bytes) -> None:
        """See `WeightStore`."""
        what = f"write {check_item(name)}"
        kept, total = await self._put(what, name, data)
        if not kept:
            await self._forget_expired()
            kept, total = await self._put(what, name, data)
        if not kept:
            problem = f"it would hold {total} bytes, and its quota is {self._quota}"
            advice = (
                "raise the quota (and Redis' maxmemory), keep fewer versions, or use a folder or a URL as the store"
            )
            raise WeightStoreError(what, _WHERE, problem, StoreProblem.FULL, advice)

    async def get(self, name: str, most: int) -> bytes:
        """See `WeightStore`."""
        what, key = f"read {check_item(name)}", self._keys.weights_item(name)
        size: int = await self._ask(what, lambda redis: redis.strlen(key))
        if size > most:
            problem = f"{size} bytes, at most {most} were announced"
            raise WeightStoreError(what, _WHERE, problem, StoreProblem.BROKEN)
        data: Any = await self._ask(what, lambda redis: redis.getrange(key, 0, most))  # it may have grown meanwhile
        if not data or len(data) > most:
            problem = "it is not there" if not data else "it changed while it was read"
            raise WeightStoreError(what, _WHERE, problem, StoreProblem.MISSING if not data else StoreProblem.BROKEN)
        return bytes(data)

    async def sizes(self, names: Collection[str]) -> dict[str, int]:
        """See `WeightStore`."""
        found: dict[str, int] = {}
        for some in _slices([check_item(name) for name in names]):
            lengths = await self._ask_each("look for weights", some, lambda pipe, key: pipe.strlen(key))
            found |= {name: length for name, length in zip(some, lengths, strict=True) if length}
        return found

    async def items(self) -> list[Stored]:
        """See `WeightStore`."""
        await self._forget_expired()
        return await self._indexed()

    async def delete(self, names: Iterable[str]) -> None:
        """See `WeightStore`."""
        for some in _slices([check_item(name) for name in names]):
            call = scripts.drop(self._keys, some, only_gone=False)
            await self._ask("remove weights", call.to)

    async def renew(self, names: Iterable[str]) -> None:
        """See `WeightStore`."""
        index = self._keys.weights()
        for some in _slices([check_item(name) for name in names]):
            await self._ask_each("renew weights", some, lambda pipe, key: pipe.expire(key, WEIGHTS_TTL_S))
        await self._ask("renew weights", lambda redis: redis.expire(index, WEIGHTS_TTL_S))

    async def room(self) -> int | None:
        """See `WeightStore`."""
        await self._forget_expired()
        index = self._keys.weights()
        total: Any = await self._ask("read the index", lambda redis: redis.hget(index, TOTAL_FIELD))
        return max(0, self._quota - (int(total) if total and total.isdigit() else 0))

    async def _put(self, what: str, name: str, data: bytes) -> tuple[bool, int]:
        reply = await self._ask(what, scripts.put(self._keys, name, data, self._quota).to)
        return bool(reply[0]), int(reply[1])

    async def _indexed(self) -> list[Stored]:
        index = self._keys.weights()
        told: Any = await self._ask("read the index", lambda redis: redis.hgetall(index))
        named = ((name.decode("latin-1"), index_entry(value)) for name, value in told.items())
        return [Stored(name, *entry) for name, entry in named if entry is not None and is_item(name)]

    async def _forget_expired(self) -> None:
        """Take items off the index that Redis has no more."""
        for some in _slices([one.name for one in await self._indexed()]):
            there = await self._ask_each("look for weights", some, lambda pipe, key: pipe.exists(key))
            if gone := [name for name, is_there in zip(some, there, strict=True) if not is_there]:
                await self._ask("remove weights", scripts.drop(self._keys, gone, only_gone=True).to)

    async def _ask_each(self, what: str, names: Sequence[str], queue: Callable[[Any, str], Any]) -> list[int]:
        async def ask(redis: Redis) -> list[int]:
            async with redis.pipeline(transaction=False) as pipe:
                for name in names:
                    queue(pipe, self._keys.weights_item(name))
                return await pipe.execute()

        return await self._ask(what, ask)

    async def _ask(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        try:
            return await self._call(what, command)
        except (RedisError, OSError) as error:
            fault = fault_of(error)
            reason = StoreProblem.AWAY if fault.passes else StoreProblem.REFUSED
            raise WeightStoreError(what, _WHERE, text_of(error), reason, fault.advice) from error


class PlainCall:
    """A `RedisCall` that sends each command once, for a caller that repeats what failed itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def __call__(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:  # noqa: ARG002 - see `RedisCall`
        """The answer."""
        return await command(self._redis)


def _slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE))
