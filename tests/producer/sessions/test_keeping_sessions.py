"""How long a session and its results stay: its retention after its last turn, however long ago the first one was."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, BatchHandle, GenerationConfig, Turn
from rollstream.schemas import Keys
from rollstream.schemas.hashes.sessions import SessionField
from tests.support.images.pictures import file_of
from tests.support.told_turns import Talk

CONFIG = GenerationConfig(max_new_tokens=4)
DAY = 86_400
TWO_WEEKS = 14 * DAY


async def ttls(redis: Redis, keys: Keys, *batches: str) -> list[int]:
    """In days: those of ledgers and results."""
    found = [await redis.ttl(key) for one in batches for key in (keys.ledger(one), keys.results(one))]
    return [round(one / DAY) for one in found]


async def test_a_session_stays_its_retention_after_each_turn_and_leaves_nothing(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys = Keys(policy)
    session = trainer.session("talk", retention_s=TWO_WEEKS)
    await session.submit([1], CONFIG)
    await redis.expire(keys.session("talk"), 100)
    await session.submit([2], CONFIG, continue_of="last")
    assert [round(await redis.ttl(key) / DAY) for key in (keys.session("talk"), keys.sessions())] == [14, 14]
    await redis.delete(keys.session("talk"))
    assert await session.turns() == ()
    assert len(await trainer.session("talk").turns()) == 0
    await session.submit([3], CONFIG)  # it is another one of that name
    assert [one.parent for one in await session.turns()] == [None]


async def test_results_stay_longer_than_their_session(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    handle = await trainer.session("talk", retention_s=TWO_WEEKS).submit([1], CONFIG)
    await handle.cancel()
    assert await ttls(redis, Keys(policy), handle.batch_id) == [18, 18]  # 17.5


async def test_a_later_turn_gives_the_results_of_earlier_ones_their_full_time_again(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys, session = Keys(policy), trainer.session("talk", retention_s=TWO_WEEKS)
    first = await session.submit([1], CONFIG)
    await first.cancel()
    for key in (keys.ledger(first.batch_id), keys.results(first.batch_id)):
        await redis.expire(key, 16 * DAY)
    await session.submit([2], CONFIG)
    assert await ttls(redis, keys, first.batch_id) == [16, 16]  # that much is enough

    seconds, _ = await redis.time()
    await redis.hset(keys.session("talk"), SessionField.RENEWED_AT, seconds - 2 * DAY)
    later = await trainer.session("talk", retention_s=TWO_WEEKS).submit([3], CONFIG)
    assert await ttls(redis, keys, first.batch_id) == [18, 18]
    assert await redis.ttl(keys.ledger(later.batch_id)) == -1  # it is not sealed yet
    await later.cancel()


@pytest.mark.parametrize("renewed_at", [b"x", b"9999999999999", b"-5"])
async def test_a_time_that_makes_no_sense_only_renews_them(
    talk: Talk, redis: Redis, policy: str, renewed_at: bytes
) -> None:
    await talk.session.submit([1], CONFIG)
    key = Keys(policy).session("talk")
    await redis.hset(key, SessionField.RENEWED_AT, renewed_at)
    await talk.session.submit([2], CONFIG)
    assert float(await redis.hget(key, SessionField.RENEWED_AT) or 0) == pytest.approx((await redis.time())[0], abs=60)


async def test_a_repeat_gives_the_results_of_its_turn_their_full_time(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys, session = Keys(policy), trainer.session("talk", retention_s=TWO_WEEKS)
    handle = await session.submit([1], CONFIG, request_id="a")
    await session.submit([2], CONFIG, request_id="b")
    await handle.cancel(groups=[0])  # answered, and not cancelled as a whole
    for key in (keys.ledger(handle.batch_id), keys.results(handle.batch_id)):
        await redis.expire(key, 100)
    assert (await session.submit([1], CONFIG, request_id="a")).is_repeat
    assert await ttls(redis, keys, handle.batch_id) == [18, 18]


async def test_images_stay_as_long_as_the_session_that_names_them(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys, session = Keys(policy), trainer.session("talk", retention_s=TWO_WEEKS)
    handle = await session.submit([1, 9], CONFIG, images=[file_of("png")])
    (turn,) = await session.turns()
    names = [keys.media(turn.images[0].sha256), keys.media_index()]

    async def days() -> list[int]:
        return [round(await redis.ttl(name) / DAY) for name in names]

    assert await days() == [18, 18]  # 17.5
    await (await trainer.submit([[2, 9]], None, CONFIG, images=[[file_of("png")]])).cancel()
    await (await trainer.submit([[2, 9]], None, CONFIG, images=[[file_of("jpeg")]])).cancel()
    assert await days() == [18, 18]

    for name in names:
        await redis.expire(name, 3 * DAY)
    seconds, _ = await redis.time()
    await redis.hset(keys.session("talk"), SessionField.RENEWED_AT, seconds - 2 * DAY)
    await (await session.submit([3], CONFIG, continue_of=handle_end(handle))).cancel()
    assert await days() == [18, 18]

    await redis.delete(names[0])
    await redis.hset(keys.session("talk"), SessionField.RENEWED_AT, seconds - 2 * DAY)
    await session.submit([4], CONFIG)  # its image is nobody's business
    assert await redis.exists(names[0]) == 0


def handle_end(handle: BatchHandle) -> Turn:
    return Turn(batch_id=handle.batch_id, group=0, sample=0)
