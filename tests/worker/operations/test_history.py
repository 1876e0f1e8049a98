"""What workers answered, minute by minute, and the measured rate: added once, small, and never in a beat's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import HistoryField, Minute, Rate
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.times import HISTORY_TTL_S, RATE_TTL_S, report_ttl_s
from rollstream.worker.operations import scripts
from rollstream.worker.operations.heartbeat import Heartbeat
from rollstream.worker.operations.history import History
from rollstream.worker.operations.rate_meter import MEASURED_S, Filled, Measured, RateMeter
from tests.support.fault_steps import stub
from tests.support.faults import Queue
from tests.support.weights.versions import wait_until_reported

KEYS = Keys("p")
NOW = 6_000_030.0
MINUTE = KEYS.history(100_000)


def full(tokens_per_s: float) -> Measured:
    return Measured(tokens_per_s=tokens_per_s, is_full=True)


def partly(tokens_per_s: float) -> Measured:
    return Measured(tokens_per_s=tokens_per_s, is_full=False)


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    """The URL of a server of its own."""
    with EmbeddedRedis() as own:
        client = Redis.from_url(own.url)
        yield client
        await client.aclose()


def history_of(redis: Redis, sums: Mapping[str, int]) -> History:
    return History(redis=redis, keys=KEYS, consumer="w", sums=lambda: sums, filled=lambda: Filled.PARTLY)


async def beat(redis: Redis) -> None:
    heartbeat = Heartbeat(redis=redis, keys=KEYS, consumer="w", interval_s=1, report=WorkerReport)
    await heartbeat.beat()


async def minute(redis: Redis, key: str = MINUTE) -> Minute:
    return Minute.of(cast("Any", await redis.hgetall(key)))


async def rate(redis: Redis) -> Rate:
    return Rate.of(cast("Any", await redis.hgetall(KEYS.rate())))


def answers(groups: int, tokens: int) -> Counter[str]:
    """Groups of two completions each."""
    return Counter({HistoryField.GROUPS: groups, HistoryField.SEQUENCES: 2 * groups, HistoryField.TOKENS: tokens})


async def test_a_beat_adds_what_is_new_to_the_sums_of_its_minute(redis: Redis) -> None:
    sums = answers(1, 20)
    history = history_of(redis, sums)
    await beat(redis)

    await history.add(NOW)
    sums.update(answers(2, 10) + Counter({HistoryField.error("too_long"): 3}))
    await history.add(NOW)
    await history.add(NOW)
    sums.update(answers(1, 1))
    await history.add(NOW + 60)

    assert await minute(redis) == Minute(groups=3, sequences=6, tokens=30, errors={"too_long": 3})
    assert await minute(redis, KEYS.history(100_001)) == Minute(groups=1, sequences=2, tokens=1)


async def test_several_workers_share_a_minute(redis: Redis) -> None:
    await beat(redis)
    for _ in range(2):
        await history_of(redis, answers(1, 5)).add(NOW)
    assert (await minute(redis)).tokens == 10


async def test_all_of_it_expires(redis: Redis) -> None:
    await beat(redis)
    await history_of(redis, answers(1, 5)).add(NOW)

    assert 0 < await redis.ttl(MINUTE) <= HISTORY_TTL_S
    assert 0 < await redis.ttl(KEYS.rate()) <= RATE_TTL_S
    assert 0 < await redis.ttl(KEYS.worker("w")) <= report_ttl_s(1.0)


async def test_an_addition_that_is_sent_again_counts_once(redis: Redis) -> None:
    sums = answers(1, 5)
    await beat(redis)
    for _ in range(2):
        assert await scripts.add(redis, KEYS, consumer="w", now=NOW, name="one", sums=sums, measured=partly(8.0))

    assert await minute(redis) == Minute(groups=1, sequences=2, tokens=5)
    assert await rate(redis) == Rate(tokens_per_s=8.0, mean_length=2.5, answers=2)


async def test_what_found_no_report_is_added_with_the_next_beat(redis: Redis) -> None:
    """A report that was not there for a while does not become one without a TTL either."""
    sums = answers(1, 5)
    history = history_of(redis, sums)
    await history.add(NOW)
    sums.update(answers(1, 3))

    assert [key async for key in redis.scan_iter()] == []
    await beat(redis)
    await history.add(NOW)
    await history.add(NOW)
    assert await minute(redis) == Minute(groups=2, sequences=4, tokens=8)


async def test_an_idle_worker_writes_nothing(redis: Redis) -> None:
    await beat(redis)
    await history_of(redis, Counter()).add(NOW)
    assert await redis.exists(MINUTE, KEYS.rate()) == 0


async def test_keys_that_became_something_else_miss_no_beat(redis: Redis) -> None:
    await redis.set(MINUTE, "no sums")
    await redis.set(KEYS.rate(), "no rate")
    sums = answers(1, 5)
    history = history_of(redis, sums)
    await beat(redis)
    await history.add(NOW)

    await redis.delete(MINUTE, KEYS.rate())
    sums.update(answers(1, 3))
    await history.add(NOW)
    assert await minute(redis) == Minute(groups=1, sequences=2, tokens=3)


async def test_the_mean_length_follows_what_was_answered_of_late(redis: Redis) -> None:
    await beat(redis)
    for number, length in enumerate([100] * 10 + [200] * 60):
        many = Counter({HistoryField.SEQUENCES: 100, HistoryField.TOKENS: 100 * length})
        await scripts.add(redis, KEYS, consumer="w", now=NOW, name=f"{number}", sums=many, measured=None)
        if number == 9:
            assert await rate(redis) == Rate(mean_length=100.0, answers=1000)

    found = await rate(redis)
    assert found.answers == 7000
    assert 195 < (found.mean_length or 0) < 200


@pytest.mark.parametrize(
    ("measured", "known"),
    [
        ([full(100.0), full(200.0)], 130.0),
        ([partly(40.0), partly(20.0)], 40.0),
        ([partly(40.0), partly(60.0)], 46.0),
        ([partly(40.0), full(100.0), partly(20.0)], 100.0),
        ([partly(400.0), full(100.0)], 100.0),
        ([full(100.0), partly(150.0), partly(50.0)], 100.0),
    ],
    ids=[
        "full workers are averaged", "what little work was done slowly says nothing", "faster work is averaged",
        "a full worker is believed at once", "also where it is slower", "others say nothing then",
    ],
)  # fmt: skip
async def test_the_rate_is_that_of_full_workers(redis: Redis, measured: list[Measured], known: float) -> None:
    await beat(redis)
    for number, one in enumerate(measured):
        await scripts.add(redis, KEYS, consumer="w", now=NOW, name=f"{number}", sums={}, measured=one)
    assert (await rate(redis)).tokens_per_s == known


IDLE, SOME, ALL = Filled.IDLE, Filled.PARTLY, Filled.FULL


def test_the_rate_counts_the_time_in_which_something_ran() -> None:
    meter = RateMeter()
    looks = [(0, 0, SOME), (20, 200, SOME), (30, 250, IDLE), (1000, 250, SOME), (1000 + MEASURED_S - 30, 900, SOME)]
    assert [meter.look(*look) for look in looks] == [None, None, None, None, partly(900 / MEASURED_S)]
    assert meter.look(1000 + MEASURED_S, 1000, SOME) is None, "it started again"


def test_the_rate_of_a_full_worker_counts_the_time_in_which_it_was_full() -> None:
    meter = RateMeter()
    looks = [(0, 0, ALL), (30, 3000, ALL), (40, 3200, SOME), (50, 3300, ALL), (50 + MEASURED_S - 30, 6300, ALL)]
    assert [meter.look(*look) for look in looks][-1] == full(6000 / MEASURED_S)


def test_a_worker_that_answers_nothing_has_no_rate() -> None:
    meter = RateMeter()
    assert [meter.look(at, 0, SOME) for at in (0.0, MEASURED_S + 1)] == [None, None]


def test_groups_that_take_longer_than_a_measurement_are_as_slow_as_they_are() -> None:
    meter = RateMeter()
    looks = [(step * MEASURED_S, 1000 * (step == 5), ALL) for step in range(6)]
    assert [meter.look(*look) for look in looks] == [None] * 5 + [full(1000 / (5 * MEASURED_S))]


def test_what_a_worker_answered_is_in_the_history_when_it_has_ended(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        config = GenerationConfig(max_new_tokens=4, num_return_sequences=2, ignore_eos=True)
        client.submit([[1], [2]], None, config).result(timeout=20)
        wait_until_reported(worker, queue, groups_published="2")
        assert worker.terminate() == 0

    pattern = queue.keys.history(0).removesuffix("0") + "*"
    found = [Minute.of(cast("Any", queue.redis.hgetall(key))) for key in queue.redis.scan_iter(pattern)]
    assert sum(one.groups for one in found) == 2
    assert sum(one.tokens for one in found) == 16
    assert Rate.of(cast("Any", queue.redis.hgetall(queue.keys.rate()))).mean_length == 4.0


@pytest.mark.parametrize("value", [b"", b"x", b"nan", b"inf", b"-1", b"0", b"1e300"])
def test_a_rate_that_is_none_is_not_known(value: bytes) -> None:
    assert Rate.of({b"tokens_per_s": value, b"mean_length": b"12.5", b"answers": b"3"}) == Rate(
        mean_length=12.5, answers=3
    )
