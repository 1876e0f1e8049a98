"""A command that Redis did not take counts once for each try, however it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis.exceptions import ConnectionError as LinkError
from redis.exceptions import RedisError, ResponseError

from rollstream.worker.measure.redis_errors import FAILED
from rollstream.worker.redis_io.connections import retrying

WRONG_TYPE = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")


@pytest.mark.parametrize(
    ("errors", "counted"),
    [
        ([], 0),
        ([LinkError("closed")], 1),
        ([LinkError("closed"), ResponseError("LOADING Redis is loading the dataset in memory")], 2),
        ([WRONG_TYPE], 1),
    ],
    ids=["none", "lost", "lost and loading", "never passes"],
)
async def test_each_failed_try_counts_once(errors: Sequence[RedisError], counted: int) -> None:
    left, before = list(errors), FAILED.total

    async def command() -> str:
        if left:
            raise left.pop(0)
        return "OK"

    if WRONG_TYPE in errors:
        with pytest.raises(ResponseError):
            await retrying("test", command)
    else:
        assert await retrying("test", command) == "OK"
    assert FAILED.total - before == counted
