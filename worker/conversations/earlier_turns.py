"""What an earlier turn left in Redis: its prompt and one of its completions, checked, or why nothing goes on from it.

Which weights or adapter sampled it does not matter: the ids are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import ConfigError, ErrorCode, GroupError, GroupResult, Keys, WireError, decode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.images import ImageRef, ImageSpan, collapsed
from rollstream.schemas.wire.turns import MOST_TURNS, Turn

from ..errors import DataError
from ..redis_io.connections import retrying

_MOST_OF_AN_ERROR = 200
"""Characters of an earlier turn's error: it may tell of another turn's, and what to do has to follow it."""
_ENDED = frozenset({"stop", "length", "repetition"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What a group goes on from."""

    turn: Turn
    ids: NDArray[np.int32]
    """(prefix_len,): the earlier turn's whole prompt, then the completion."""
    completions: NDArray[np.int32]
    """(t, 2): offset and length in `ids` of each completion of a turn; the last is that of `turn`."""
    images: tuple[ImageRef, ...] = ()
    """Those of the earlier turn's prompt."""
    spans: tuple[ImageSpan, ...] = ()
    """Where these lie in `ids`."""

    @property
    def submitted(self) -> NDArray[np.int32]:
        """`ids` with the placeholder of each image: what is expanded again."""
        return collapsed(self.ids, self.spans)

    def check_seen(self, ids: NDArray[np.int32], spans: Sequence[ImageSpan]) -> None:
        """Raises `DataError` unless the expanded prompt begins as the earlier turn was sampled, with the same pixels.

        `spans`: where this worker puts the images, and what its processor is.
        """
        is_same = np.array_equal(ids[: self.ids.size], self.ids)
        if not is_same or tuple(spans[: len(self.spans)]) != self.spans:
            made = "pixels" if is_same else "ids"
            problem = f"this worker makes other {made} of the images of its prompt than the worker that sampled it"
            remedy = "give all workers the same processor of images"
            raise DataError(ErrorCode.IMAGE_REFUSED, "images", f"{self.turn} cannot be continued: {problem}: {remedy}")
        if any(span.offset < self.ids.size for span in spans[len(self.spans) :]):
            problem = "this worker takes an id that was sampled for an image"
            raise DataError(ErrorCode.IMAGE_REFUSED, "images", f"{self.turn} cannot be continued: {problem}: {_WHOLE}")


class EarlierTurns:
    """Reads results of earlier batches of the same policy. What Redis holds is hostile until it was checked."""

    def __init__(self, *, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def find(self, turn: Turn) -> Earlier:
        """What `turn` left. Waits while Redis is away. Raises `DataError` (`turn_missing`), which says what to do."""
        try:
            payload = await self._payload(turn)
        except RedisError as error:
            raise missing(turn, f"its result cannot be read: {error}", _WHOLE) from None
        return earlier_of(turn, payload)

    async def _payload(self, turn: Turn) -> bytes:
        fields = [LedgerField.group(turn.group), LedgerField.at(turn.group), LedgerField.GROUPS, LedgerField.CANCELLED]
        ledger = self._keys.ledger(turn.batch_id)
        by, at, groups, cancelled = await retrying("read a turn", self._hmget, ledger, fields)
        if groups is None:
            raise missing(turn, "Redis has no such batch (any more)", f"{_WHOLE}; {_KEPT}")
        if at is None or not EntryId.is_one(at):
            raise missing(turn, *_unanswered(turn, by, groups, is_cancelled=cancelled is not None))
        found = await retrying("read a turn", self._xrange, self._keys.results(turn.batch_id), at)
        if not found:
            raise missing(turn, "its result is not in Redis any more", f"{_WHOLE}; {_KEPT}")
        payload: bytes = found[0][1].get(PAYLOAD, b"")
        return payload

    async def _hmget(self, key: str, fields: list[str]) -> list[bytes | None]:
        client: Any = self._redis
        values: list[bytes | None] = await client.hmget(key, fields)
        return values

    async def _xrange(self, key: str, at: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
        client: Any = self._redis
        found: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(key, at, at)
        return found


_WHOLE = "submit the whole conversation as a prompt, without continue_of"
_KEPT = "results stay for the workers' --result-ttl-s, and longer for a run or a session"


def missing(turn: Turn, why: str, remedy: str) -> DataError:
    """The error for a turn that nobody can go on from."""
    return DataError(ErrorCode.TURN_MISSING, "continue_of", f"{turn} cannot be continued: {why}: {remedy}")


def _unanswered(turn: Turn, by: bytes | None, groups: bytes, *, is_cancelled: bool) -> tuple[str, str]:
    """Why the ledger names no entry for a group's result, and what to do."""
    if groups.isdigit() and turn.group >= (count := int(groups[:10])):
        return f"its batch has {count} group{'s' * (count != 1)}, counted from 0", "name one of them"
    if is_cancelled or by == b"cancelled":
        return "its batch was cancelled before it had an answer", _WHOLE
    if by == LedgerField.CUT.encode():
        return "the group was cut, because it was not needed any more", _WHOLE
    if by is None:
        return "it is still under way", "wait for its result, then submit this under another batch_id"
    return "a worker of an older release answered it, and noted no place", f"upgrade all workers; or {_WHOLE}"


def earlier_of(turn: Turn, payload: bytes) -> Earlier:
    """What is in the payload of the turn's result. Raises `DataError`."""
    try:
        answer: GroupResult | GroupError = decode(payload, GroupResult, GroupError)  # type: ignore[assignment]
    except (WireError, ConfigError) as error:
        raise missing(turn, f"its result is no completion of a prompt ({error})", _WHOLE) from None
    if (answer.batch_id, answer.group) != (turn.batch_id, turn.group):
        raise missing(turn, f"its result is that of group {answer.group} of {answer.batch_id!r}", _WHOLE)
    if isinstance(answer, GroupError):
        raise missing(turn, f"its group failed ({answer.code}: {_brief(answer.message)})", "continue another turn")
    return _of_sample(turn, answer)


def _brief(message: str) -> str:
    return message if len(message) <= _MOST_OF_AN_ERROR else f"{message[:_MOST_OF_AN_ERROR]}..."


def _of_sample(turn: Turn, result: GroupResult) -> Earlier:
    samples = list(range(len(result))) if result.sample_index is None else result.sample_index.tolist()
    if turn.sample not in samples:
        was_cut = result.cut_lengths is not None and turn.sample >= 0
        why = "the sample was cut, or never asked for" if was_cut else "its group has no such sample"
        raise missing(turn, why, f"name one that it has: {_some(samples)}")
    row = samples.index(turn.sample)
    if result.finish_reasons[row] not in _ENDED:
        raise missing(turn, f"the sample did not end, it was given up ({result.finish_reasons[row]})", _WHOLE)
    prompt, length = result.prompt.numpy(), int(result.lengths.numpy()[row])
    before = [] if result.earlier_completions is None else result.earlier_completions.tolist()
    if len(before) >= MOST_TURNS:
        raise DataError(ErrorCode.TOO_LONG, "continue_of", f"{turn} has {MOST_TURNS} turns before it: {_WHOLE}")
    return Earlier(
        turn=turn,
        ids=np.concatenate([prompt, result.token_ids.numpy()[row, :length]]).astype(np.int32, copy=False),
        completions=np.array([*before, (prompt.size, length)], np.int32),
        images=result.images,
        spans=result.image_spans,
    )


def _some(samples: list[int]) -> str:
    named = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
    return f"sample {named}" if len(samples) == 1 else f"samples {named}"
