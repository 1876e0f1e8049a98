"""Images of a batch: in Redis once, before the first job is; a submit that is repeated needs and sends no more."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from rollstream import (
    AsyncClient,
    BatchConflictError,
    Client,
    ImagesError,
    ImagesGoneError,
    RedisUnavailableError,
    TooLargeForRedisError,
    UnconfirmedSubmitError,
)
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys, ScoreJob, decode
from rollstream.schemas.times import MEDIA_TTL_S
from tests.support.batches import CONFIG, PROMPTS, entries
from tests.support.faults import Link, Queue
from tests.support.images.pictures import file_of
from tests.support.lua import digest

CAT, DOG = file_of("png"), file_of("jpeg", 30, 20)
IMAGES: list[Any] = [[CAT], None, [DOG, CAT], None]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored(server: Any, policy: str) -> dict[str, bytes]:
    keys = sorted(server.scan_iter(f"rs:{{{policy}}}:media:*"))
    return {key.decode().rpartition(":")[2]: server.get(key) for key in keys}


async def test_each_image_is_in_redis_once_and_jobs_name_it(trainer: AsyncClient, server: Any, policy: str) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b", prompts_per_job=2)

    assert stored(server, policy) == {sha(CAT): CAT, sha(DOG): DOG}
    (_, first), (_, second) = entries(server, policy)
    assert [[ref.sha256 for ref in refs] for refs in first.images] == [[sha(CAT)], []]
    assert [[ref.sha256 for ref in refs] for refs in second.images] == [[sha(DOG), sha(CAT)], []]
    assert {job.requires for job in (first, second)} == {("images",)}
    dog = second.images[0][0]
    assert (dog.nbytes, dog.format, dog.width, dog.height) == (len(DOG), "jpeg", 30, 20)
    assert server.hget(Keys(policy).media_index(), "bytes") == str(len(CAT) + len(DOG)).encode()


async def test_a_job_without_images_says_nothing_of_them(trainer: AsyncClient, server: Any, policy: str) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, images=[[CAT], None, None, None], batch_id="b", prompts_per_job=2)

    _, (_, plain) = entries(server, policy)
    assert (plain.images, plain.requires) == ((), ())


async def test_submitting_again_sends_nothing_and_lets_images_stay(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    first = await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b")
    key = Keys(policy).media(sha(CAT))
    server.expire(key, 9)

    again = await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b")

    assert (again, again.is_repeat) == (first, True)
    assert MEDIA_TTL_S - 60 < server.ttl(key) <= MEDIA_TTL_S
    assert server.hget(Keys(policy).media_index(), "bytes") == str(len(CAT) + len(DOG)).encode()


async def test_an_image_that_expired_or_was_harmed_is_sent_again(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b")
    server.delete(Keys(policy).media(sha(CAT)))
    server.setrange(Keys(policy).media(sha(DOG)), len(DOG), b"more")

    await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b")

    assert stored(server, policy) == {sha(CAT): CAT, sha(DOG): DOG}


@pytest.mark.parametrize(
    "other",
    [None, [[DOG], None, [DOG, CAT], None], [[CAT], None, [CAT, DOG], None], [[CAT], [DOG, CAT], None, None]],
    ids=["none", "another", "order", "of another prompt"],
)
async def test_other_images_are_other_content(trainer: AsyncClient, other: Any) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b")

    with pytest.raises(BatchConflictError):
        await trainer.submit(PROMPTS, None, CONFIG, images=other, batch_id="b")


async def test_bad_images_leave_nothing_behind(trainer: AsyncClient, server: Any, policy: str) -> None:
    for images in ([[CAT], None, [b"hello"], None], [[CAT]]):
        with pytest.raises(ImagesError):
            await trainer.submit(PROMPTS, None, CONFIG, images=images)

    assert list(server.scan_iter(f"rs:{{{policy}*")) == []


async def test_an_image_that_redis_has_is_named_by_its_reference(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    await trainer.submit([[1]], None, CONFIG, images=[[CAT]], batch_id="a")
    ((_, job),) = entries(server, policy)
    ref = job.images[0][0]

    await trainer.submit([[2]], None, CONFIG, images=[[ref]], batch_id="b")

    assert entries(server, policy)[1][1].images == ((ref,),)
    server.delete(Keys(policy).media(ref.sha256))
    with pytest.raises(ImagesGoneError, match=ref.sha256) as caught:
        await trainer.submit([[3]], None, CONFIG, images=[[ref]], batch_id="c")
    assert caught.value.sha256 == [ref.sha256]
    assert len(entries(server, policy)) == 2


async def test_a_policy_has_images_up_to_its_quota(trainer: AsyncClient, server: Any, policy: str) -> None:
    quota = len(CAT) + 10
    await trainer.submit([[1]], None, CONFIG, images=[[CAT]], image_quota_bytes=quota)

    with pytest.raises(TooLargeForRedisError, match=f"{len(CAT) + len(DOG)} bytes, and the quota is {quota}") as caught:
        await trainer.submit([[1]], None, CONFIG, images=[[DOG]], image_quota_bytes=quota)
    assert (caught.value.nbytes, caught.value.limit) == (len(CAT) + len(DOG), quota)
    server.delete(Keys(policy).media(sha(CAT)))  # as if it had expired
    await trainer.submit([[1]], None, CONFIG, images=[[DOG]], image_quota_bytes=len(DOG))

    assert stored(server, policy) == {sha(DOG): DOG}
    assert server.hgetall(Keys(policy).media_index()).keys() == {sha(DOG).encode(), b"bytes"}


async def test_images_that_exceed_the_quota_together_leave_nothing_behind(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    await trainer.submit([[1]], None, CONFIG, images=[[CAT]], batch_id="a")
    more = [file_of("png", 50 + width, 40) for width in range(3)]
    quota = len(CAT) + sum(map(len, more)) - 1
    index = server.hgetall(Keys(policy).media_index())

    with pytest.raises(TooLargeForRedisError, match=f"would have {quota + 1} bytes, and the quota is {quota};"):
        await trainer.submit([[2]], None, CONFIG, images=[more], image_quota_bytes=quota)

    assert stored(server, policy) == {sha(CAT): CAT}
    assert server.hgetall(Keys(policy).media_index()) == index
    await trainer.submit([[2]], None, CONFIG, images=[more[:2]], image_quota_bytes=quota)


async def test_images_that_expired_make_room_for_themselves(trainer: AsyncClient, server: Any, policy: str) -> None:
    quota = len(CAT) + len(DOG)
    await trainer.submit([[1]], None, CONFIG, images=[[CAT, DOG]], image_quota_bytes=quota)
    server.delete(Keys(policy).media(sha(CAT)), Keys(policy).media(sha(DOG)))

    await trainer.submit([[1]], None, CONFIG, images=[[CAT, DOG]], image_quota_bytes=quota)

    assert stored(server, policy) == {sha(CAT): CAT, sha(DOG): DOG}


async def test_an_image_larger_than_redis_takes_is_refused_before_anything_is_queued(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    before = server.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    server.config_set("proto-max-bulk-len", 2**20)
    try:
        with pytest.raises(TooLargeForRedisError, match="scale the image down"):
            await trainer.submit([[1]], None, CONFIG, images=[[noise]])
    finally:
        server.config_set("proto-max-bulk-len", before)

    assert entries(server, policy) == []


async def test_too_few_replicas_are_named_with_the_batch(redis_url: str, policy: str) -> None:
    async with AsyncClient(redis_url, policy=policy, redis_wait=1, reconnect_s=0.2) as client:
        with pytest.raises(UnconfirmedSubmitError, match=r"0 of 1 replicas.*batch_id='b'"):
            await client.submit([[1]], None, CONFIG, images=[[CAT]], batch_id="b")


async def test_a_lost_reply_keeps_an_image_once(faulty: AsyncClient, link: Link, server: Any, policy: str) -> None:
    await faulty.submit([[1]], None, CONFIG, images=[[DOG]])
    link.lose_reply(to=digest("keep_image.lua"))

    await faulty.submit([[1]], None, CONFIG, images=[[CAT]])

    assert stored(server, policy) == {sha(CAT): CAT, sha(DOG): DOG}
    assert server.hget(Keys(policy).media_index(), "bytes") == str(len(CAT) + len(DOG)).encode()


async def test_a_cluster_has_the_images_of_all_partitions_on_one_node(cluster: LocalCluster, policy: str) -> None:
    keys = Keys(policy, partitions=4)
    async with AsyncClient(cluster.url, policy=policy, partitions=4) as client:
        for batch_id in ("a", "b", "c"):
            await client.submit([[1]], None, CONFIG, images=[[CAT]], batch_id=batch_id)

    assert cluster.node_of(keys.media(sha(CAT))).ask("GET", keys.media(sha(CAT))) == CAT


def test_a_run_and_a_blocking_client_submit_images(client: Client, server: Any, policy: str) -> None:
    with client.run("exp") as run:
        handle = run.submit([[1]], None, CONFIG, images=[[CAT]])
        again = run.submit([[1]], None, CONFIG, images=[[CAT]], batch_id=handle.batch_id)
        assert again == handle

    ((_, job),) = entries(server, policy)
    assert [ref.sha256 for ref in job.images[0]] == [sha(CAT)]


async def test_rows_to_score_have_images_behind_their_placeholders(
    trainer: AsyncClient, queue: Queue, server: Any, policy: str
) -> None:
    rows = [[1, 9, 2, 3], [4, 5]]
    handle = await trainer.submit_scores(rows, None, first=[2, 1], images=[[CAT], None])

    ((_, fields),) = queue.entries()
    job = decode(fields[b"payload"], ScoreJob)
    assert [[ref.sha256 for ref in refs] for refs in job.images] == [[sha(CAT)], []]
    assert (job.image_spans, job.requires, job.firsts.tolist()) == ((), ("images",), [2, 1])
    assert handle.batch.width == 2
    assert stored(server, policy) == {sha(CAT): CAT}
    with pytest.raises(Exception, match="first None: rows with images are scored from behind their placeholders"):
        await trainer.submit_scores(rows, None, images=[[CAT], None])


@pytest.mark.parametrize("told", [b"x", b"-5", b"1e400", b"", b"9" * 400, b"9" * 400 + b":1"])
async def test_an_index_that_makes_no_sense_stops_nobody(
    trainer: AsyncClient, server: Any, policy: str, told: bytes
) -> None:
    keys = Keys(policy)
    server.hset(keys.media_index(), mapping={"bytes": told, sha(CAT): told, "../x": told})
    server.expire(keys.media_index(), 600)

    await trainer.submit([[1]], None, CONFIG, images=[[CAT]])

    assert stored(server, policy) == {sha(CAT): CAT}


async def test_a_key_of_another_type_is_a_typed_error(trainer: AsyncClient, server: Any, policy: str) -> None:
    server.lpush(Keys(policy).media(sha(CAT)), "x")
    server.expire(Keys(policy).media(sha(CAT)), 600)

    with pytest.raises(RedisUnavailableError, match=r"cannot send images: .*WRONGTYPE"):
        await trainer.submit([[1]], None, CONFIG, images=[[CAT]])

    assert entries(server, policy) == []
