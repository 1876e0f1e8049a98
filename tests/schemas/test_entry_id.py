"""Ids of entries are compared as Redis compares them, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas.entry_id import BEFORE_ALL, LAST_POSSIBLE, EntryId, after


@pytest.mark.parametrize("text", ["0-0", "5-12", "1700000000000-0", "18446744073709551615-18446744073709551615"])
def test_an_id_reads_as_it_is_written(text: str) -> None:
    assert str(EntryId.of(text)) == str(EntryId.of(text.encode())) == text


@pytest.mark.parametrize(
    "text",
    ["", "5", "5-", "-5", "5-*", "5-0 ", "+5-0", "5-0-0", "18446744073709551616-0", "0-" + "9" * 20, "\u0665-0", "x"],
)
def test_what_redis_would_not_take_is_no_id(text: str) -> None:
    assert not EntryId.is_one(text)
    with pytest.raises(ValueError, match="is no entry id"):
        EntryId.of(text)


async def test_ids_are_in_the_order_of_the_stream(redis: Redis, policy: str) -> None:
    ids = [EntryId(0, 1), EntryId(0, 10), EntryId(9), EntryId(10, 2), LAST_POSSIBLE]
    for entry_id in ids:
        await redis.xadd(f"rs:{{{policy}}}:versions", {"a": "b"}, id=str(entry_id))
    found: Any = await redis.xrange(f"rs:{{{policy}}}:versions", min=after(ids[0]), max="+")

    assert [EntryId.of(entry_id) for entry_id, _ in found] == ids[1:]
    assert sorted({*ids}) == ids
    assert ids[0] > BEFORE_ALL


def test_an_entry_that_is_still_to_come_has_no_age() -> None:
    assert (EntryId(1500).age_s(2.0), EntryId(2500).age_s(2.0)) == (0.5, 0.0)
