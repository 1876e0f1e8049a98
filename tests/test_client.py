"""Submit is safe to repeat, results arrive once and in order, and hostile or missing bytes become typed errors."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import redis
import torch

from producer import (
    AsyncClient,
    BatchConflictError,
    BatchHandle,
    Client,
    ClientClosedError,
    ConfigError,
    GenerationConfig,
    GroupError,
    GroupResult,
    NameRefusedError,
    PromptsError,
    RedisUnavailableError,
    ResultTimeoutError,
    UnknownBatchError,
    UnreadableResultError,
    WireError,
)
from producer.connection import Connection
from producer.embedded import EmbeddedRedis
from producer.redis_faults import fault_of
from producer.submission import Submission
from schemas import Envelope, Job, Keys, Sealed, Tensor, decode, encode
from schemas.redis_url import without_password
from tests.answers import Answering, error_of, result_of
from tests.faults import Link
from tests.worker_process import WorkerProcess, wait_for

CONFIG = GenerationConfig(max_new_tokens=4)
PROMPTS = [[1, 2], [3], [4, 5, 6], [7]]


@pytest.fixture
async def client(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, reconnect_s=10) as made:
        yield made


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def own_redis() -> Iterator[Any]:
    """A server that a test may break."""
    with EmbeddedRedis() as own, redis.Redis.from_url(own.url) as connected:
        connected.ping()  # authenticated, also after a password is set
        yield connected


def url_of(server: Any) -> str:
    return f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}/0"


def answers(server: Any) -> bool:
    try:
        return bool(server.ping())
    except redis.ResponseError:
        return False


def entries(server: Any, policy: str, partitions: int = 1) -> list[tuple[Envelope, Job]]:
    keys = Keys(policy, partitions)
    found = [server.xrange(keys.jobs(partition)) for partition in range(partitions)]
    return [(Envelope.of(fields), decode(fields[b"payload"], Job)) for rows in found for _, fields in rows]


def answering(redis_url: str, policy: str, handle: BatchHandle) -> Answering:
    return Answering(redis_url, policy, handle.batch_id, handle.num_groups)


def result(handle: BatchHandle, group: int, **changes: Any) -> GroupResult:
    return result_of(group, PROMPTS[group], [[10 + group]], handle.batch_id, **changes)


# Submitting


async def test_submit_queues_jobs_that_cover_the_batch_once(client: AsyncClient, server: Any, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG, adapter="math@3", batch_id="b", prompts_per_job=3)
    jobs = entries(server, policy)
    assert [(envelope.job, envelope.groups) for envelope, _ in jobs] == [(0, range(3)), (1, range(3, 4))]
    assert [prompt.tolist() for _, job in jobs for prompt in job.prompts] == PROMPTS
    assert [(job.batch_id, job.num_groups, job.adapter, job.config) for _, job in jobs] == [
        ("b", 4, "math@3", CONFIG)
    ] * 2
    assert (handle.num_groups, handle.batch.num_jobs, handle.batch.prompt_width) == (4, 2, 3)
    assert repr(handle) == "<BatchHandle batch_id=b 0/4 groups>"


async def test_submitting_the_same_content_again_queues_nothing(
    client: AsyncClient, server: Any, redis_url: str, policy: str
) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]])
    first = await client.submit(tensor, tensor > 0, CONFIG, batch_id="b", prompts_per_job=1)
    async with AsyncClient(redis_url, policy=policy) as other:
        second = await other.submit(tensor.numpy(), (tensor > 0).numpy(), CONFIG, batch_id="b", prompts_per_job=1)
    assert len(entries(server, policy)) == 2
    assert (second, hash(second)) == (first, hash(first))
    assert second != await client.submit(PROMPTS, None, CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_ids": [[1, 2], [3], [4, 5, 6], [8]]},
        {"input_ids": [[1], [2, 3], [4, 5, 6], [7]]},
        {"input_ids": np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 0], [7, 0, 0, 0]]),
         "attention_mask": np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])},
        {"config": GenerationConfig(max_new_tokens=5)},
        {"adapter": "math@3"},
        {"prompts_per_job": 2},
    ],
    ids=["an id", "lengths", "width", "config", "adapter", "slicing"],
)  # fmt: skip
async def test_other_content_under_the_same_id_is_refused(
    client: AsyncClient, server: Any, policy: str, changes: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"input_ids": PROMPTS, "config": CONFIG, "batch_id": "b", "prompts_per_job": 3}
    await client.submit(**given)
    before = len(entries(server, policy))
    with pytest.raises(BatchConflictError, match="'b' was already submitted"):
        await client.submit(**given | changes)
    assert len(entries(server, policy)) == before


async def test_the_order_of_a_logit_bias_is_no_content(client: AsyncClient, server: Any, policy: str) -> None:
    for bias in ({1: 1.0, 2: 2.0}, {2: 2.0, 1: 1.0}):
        await client.submit(PROMPTS, None, GenerationConfig(max_new_tokens=4, logit_bias=bias), batch_id="b")
    assert len(entries(server, policy)) == 1


async def test_a_submit_that_died_half_way_is_completed_by_the_next(
    client: AsyncClient, server: Any, policy: str
) -> None:
    await client.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
    keys = Keys(policy)
    last_entry = server.hget(keys.ledger("b"), "job:3")
    server.xdel(keys.jobs(0), last_entry)  # as if the producer had died before the last job
    server.hdel(keys.ledger("b"), "job:3")
    await client.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
    assert [envelope.job for envelope, _ in entries(server, policy)] == [0, 1, 2, 3]


async def test_a_lost_reply_does_not_queue_a_job_twice(redis_url: str, server: Any, policy: str) -> None:
    async with losing_replies(redis_url) as proxy, AsyncClient(proxy.url, policy=policy, reconnect_s=10) as client:
        await client.submit([[9]], None, CONFIG, batch_id="warm-up")
        proxy.lose_next = 1
        await client.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
        assert proxy.lost == 1
    jobs = [envelope.job for envelope, _ in entries(server, policy) if envelope.batch_id == "b"]
    assert jobs == [0, 1, 2, 3]


async def test_many_jobs_travel_in_bounded_pipelines(client: AsyncClient, server: Any, policy: str) -> None:
    await client.submit([[n + 1] for n in range(200)], None, CONFIG, prompts_per_job=1)
    assert [envelope.first_group for envelope, _ in entries(server, policy)] == list(range(200))


async def test_jobs_that_redis_loses_while_others_are_queued_are_queued_again(
    client: AsyncClient, server: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is emptied between two pipelines of one submit."""
    losses = emptied_between_pipelines(server, policy, monkeypatch, times=1)
    handle = await client.submit([[n + 1] for n in range(100)], None, CONFIG, batch_id="b", prompts_per_job=1)
    assert sorted(envelope.job for envelope, _ in entries(server, policy)) == list(range(100))
    assert (losses, await handle.done()) == ([64], 0)


async def test_a_redis_that_loses_jobs_again_and_again_is_an_error(
    client: AsyncClient, server: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = emptied_between_pipelines(server, policy, monkeypatch, times=99)
    with pytest.raises(UnknownBatchError, match="lost its first jobs"):
        await client.submit([[n + 1] for n in range(100)], None, CONFIG, batch_id="b", prompts_per_job=1)
    assert len(losses) == 3


def emptied_between_pipelines(server: Any, policy: str, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Delete this policy's keys before each second pipeline; how many jobs were there then."""
    losses: list[int] = []
    chunks = Submission.chunks

    def emptying(submission: Submission) -> Iterator[Any]:
        for number, chunk in enumerate(chunks(submission)):
            if number == 1 and len(losses) < times:
                losses.append(server.xlen(Keys(policy).jobs(0)))
                server.delete(Keys(policy).jobs(0), Keys(policy).ledger("b"))
            yield chunk

    monkeypatch.setattr(Submission, "chunks", emptying)
    return losses


async def test_a_batch_goes_to_its_own_partition(redis_url: str, server: Any, policy: str) -> None:
    async with AsyncClient(redis_url, policy=policy, partitions=4) as client:
        for number in range(8):
            await client.submit(PROMPTS, None, CONFIG, batch_id=f"b{number}")
    keys = Keys(policy, 4)
    for partition in range(4):
        found = [fields[b"batch"].decode() for _, fields in server.xrange(keys.jobs(partition))]
        assert found == [f"b{n}" for n in range(8) if keys.partition(f"b{n}") == partition]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"config": None}, ConfigError, "is required"),
        ({"input_ids": [[-1]]}, PromptsError, "row 0, column 0"),
        ({"batch_id": "a b"}, NameRefusedError, "batch_id"),
        ({"adapter": "math"}, NameRefusedError, "name@version"),
        ({"prompts_per_job": 0}, PromptsError, "prompts_per_job"),
        ({"prompts_per_job": 5000}, PromptsError, "4096"),
        ({"input_ids": np.ones((1, 2**24), np.int32)}, WireError, "fewer prompts per job"),
    ],
)
async def test_what_cannot_be_submitted_leaves_nothing_behind(
    client: AsyncClient, server: Any, policy: str, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    given: dict[str, Any] = {"input_ids": PROMPTS, "config": CONFIG}
    with pytest.raises(error, match=words):
        await client.submit(**given | changes)
    assert list(server.scan_iter(f"*{policy}*")) == []


# Results


async def test_groups_come_in_finish_order_and_the_result_in_submission_order(
    client: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(*(result(handle, group) for group in (2, 0, 3, 1)))
    assert [answer.group async for answer in handle.groups()] == [2, 0, 3, 1]
    rollouts = await handle.result()
    assert rollouts.sequences.tolist() == [[0, 1, 2, 10], [0, 0, 3, 11], [4, 5, 6, 12], [0, 0, 7, 13]]
    assert repr(handle).endswith("4/4 groups>")


async def test_a_group_is_there_before_the_batch_is_complete(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker, groups = answering(redis_url, policy, handle), handle.groups()
    worker.publish(result(handle, 1))
    assert (await anext(groups)).group == 1
    assert await handle.done() == 1
    assert [answer.group for answer in await handle.finished()] == [1]
    waiting = asyncio.ensure_future(anext(groups))
    worker.publish(result(handle, 3))
    assert (await waiting).group == 3


async def test_result_may_be_called_again_and_beside_groups(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)

    async def all_groups() -> list[int]:
        return [answer.group async for answer in handle.groups()]

    together = asyncio.gather(handle.result(), all_groups(), all_groups())
    answering(redis_url, policy, handle).publish(*(result(handle, group) for group in (3, 2, 1, 0)))
    rollouts, *orders = await together
    again = await handle.result(pad_to_max_new_tokens=True, pad_token_id=9)
    assert orders == [[3, 2, 1, 0]] * 2
    assert rollouts.response_len == 1
    assert (again.response_len, again.sequences[1].tolist()) == (4, [9, 9, 3, 11, 9, 9, 9])


async def test_many_handles_wait_on_one_client(client: AsyncClient, redis_url: str, policy: str) -> None:
    handles = [await client.submit([[1]], None, CONFIG, batch_id=f"b{n}") for n in range(150)]
    waiting = asyncio.gather(*(handle.wait(30) for handle in handles))
    with redis.Redis.from_url(redis_url) as server:
        while server.info("clients")["blocked_clients"] < 150:
            assert not waiting.done()
            await asyncio.sleep(0.01)
    for handle in handles:
        await handle.cancel()
    assert [len(answers) for answers in await waiting] == [1] * 150


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [1, 2, 4, 8, 16]), (300_000, [1, 2, 3, 3, 3, 3]), (2_000_000, [1] * 9)]
)
async def test_a_read_asks_for_a_megabyte_of_results(
    redis_url: str, policy: str, link: Link, size: int, expected: list[int]
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client:
        groups = min(sum(expected), 9 + 6)
        handle = await client.submit([[1]] * groups, None, CONFIG, batch_id="b")
        answered = Answering(redis_url, policy, "b", groups)
        answered.publish(
            *(error_of(group, batch_id="b").model_copy(update={"message": "x" * size}) for group in range(groups))
        )
        link.requests = bytearray()
        await handle.wait(30)
    asked = [int(count) for count in re.findall(rb"COUNT\r\n\$\d+\r\n(\d+)\r\n", bytes(link.requests))]
    assert asked == expected[: len(asked)]
    assert sum(asked) >= groups


async def test_another_client_attaches_by_batch_id(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG, batch_id="b", adapter="math@3")
    answering(redis_url, policy, handle).publish(*(result(handle, group) for group in range(4)))
    async with AsyncClient(redis_url, policy=policy) as other:
        attached = await other.attach("b")
        rollouts = await attached.result(timeout=20)
    assert attached.batch == handle.batch
    assert len(rollouts) == 4


async def test_a_timeout_says_how_far_it_came_and_waiting_may_go_on(
    client: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(result(handle, 0), result(handle, 1))
    with pytest.raises(ResultTimeoutError, match=r"2 of 4 groups after 0\.5 s") as caught:
        await handle.result(timeout=0.5)
    assert (caught.value.done, caught.value.total) == (2, 4)
    worker.publish(result(handle, 2), result(handle, 3))
    assert len(await handle.result(timeout=20)) == 4


async def test_a_second_result_for_a_group_is_ignored(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit([[1, 2]], None, CONFIG)
    worker = answering(redis_url, policy, handle)
    for delivery in (1, 2):
        worker.write(b"group", encode(result(handle, 0, delivery=delivery)))
    answers = [answer async for answer in handle.groups()]
    assert [answer.delivery for answer in answers if isinstance(answer, GroupResult)] == [1]


async def test_failed_groups_are_answers_too(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(error_of(0, PROMPTS[0], handle.batch_id), *(result(handle, group) for group in (1, 2, 3)))
    rollouts = await handle.result(timeout=20)
    assert list(rollouts.errors) == [0]
    assert rollouts.finish_reasons == ("error", "stop", "stop", "stop")


def _changed(handle: BatchHandle, **changes: Any) -> bytes:
    return bytes(msgpack.packb(result(handle, 0).model_dump() | changes))


def sealed(handle: BatchHandle) -> bytes:
    return encode(Sealed(batch_id=handle.batch_id, num_groups=handle.num_groups))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (lambda _: b"\xc1rubbish", "not a readable msgpack"),
        (lambda h: encode(result(h, 0))[:-3], "truncated"),
        (lambda h: _changed(h, v=2), "wire version 2"),
        (lambda h: _changed(h, kind="job"), "kind 'job'"),
        (lambda _: encode(result_of(0, [1], [[5]], "another")), "belongs to batch 'another'"),
        (lambda h: encode(error_of(4, None, h.batch_id)), "group 4 of 4"),
        (lambda h: encode(result_of(0, [1], [[5], [6]], h.batch_id)), "2 completions, num_return_sequences is 1"),
        (lambda h: encode(result_of(0, [1], [[5] * 5], h.batch_id)), "max_new_tokens is 4"),
        (lambda h: encode(result_of(0, [1] * 4, [[5]], h.batch_id)), "a prompt of 4 tokens"),
        (lambda h: encode(result(h, 0, logprobs=None, logprobs_flavour=None)), "logprobs are absent"),
        (lambda h: _changed(h, lengths=Tensor.of(np.array([9], np.int32)).model_dump()), "lengths"),
        (lambda h: encode(result_of(0, [1], [[-5]], h.batch_id)), "a negative token id in a completion"),
        (lambda h: encode(result_of(0, [-1], [[5]], h.batch_id)), "a negative token id in the prompt"),
        (lambda h: encode(error_of(0, [1] * 4, h.batch_id)), "a prompt of 4 tokens"),
        (lambda h: encode(Sealed(batch_id=h.batch_id, num_groups=4)), "sealed with 0 of 4 groups"),
        (lambda h: encode(Sealed(batch_id=h.batch_id, num_groups=3)), "seals 3 groups"),
    ],
)
async def test_hostile_results_are_typed_errors_at_every_call(
    client: AsyncClient, redis_url: str, policy: str, payload: Any, words: str
) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.write(b"group", payload(handle))
    worker.write(b"sealed", sealed(handle))
    for call in (handle.result, handle.result, handle.finished, handle.groups().__anext__):
        async with asyncio.timeout(20):
            with pytest.raises(UnreadableResultError, match=words) as caught:
                await call()
    assert caught.value.batch_id == handle.batch_id


async def test_a_hostile_result_does_not_block_the_others(client: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.write(b"group", b"rubbish")
    worker.publish(result(handle, 2))
    assert [answer.group for answer in await handle.finished()] == [2]
    worker.write(b"sealed", sealed(handle))
    worker.publish(*(result(handle, group) for group in (0, 3, 1)))
    assert [answer.group async for answer in handle.groups()] == [2, 0, 3, 1]
    assert not (await handle.result(timeout=20)).errors


async def test_the_first_hostile_result_is_told_once_no_other_will_come(
    client: AsyncClient, redis_url: str, server: Any, policy: str
) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    worker, groups = answering(redis_url, policy, handle), handle.groups()
    worker.publish(result(handle, 2))
    worker.write(b"group", b"rubbish")
    worker.write(b"group", b"more rubbish")
    assert (await anext(groups)).group == 2
    with pytest.raises(ResultTimeoutError):
        await handle.result(timeout=0.3)
    server.hset(worker.ledger, "done", 4)
    with pytest.raises(UnreadableResultError) as caught:
        await handle.result(timeout=20)
    assert caught.value.data == b"rubbish"


async def test_a_count_that_no_worker_writes_is_a_typed_error(client: AsyncClient, server: Any, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    server.hset(Keys(policy).ledger(handle.batch_id), "done", "9" * 5000)
    with pytest.raises(UnreadableResultError, match="entry ledger: done is"):
        await handle.done()


async def test_attaching_to_what_redis_does_not_know_is_refused(client: AsyncClient, server: Any, policy: str) -> None:
    with pytest.raises(UnknownBatchError, match="never submitted, expired"):
        await client.attach("nobody")
    server.hset(Keys(policy).ledger("broken"), "batch", b"rubbish")
    with pytest.raises(UnreadableResultError, match="entry ledger"):
        await client.attach("broken")


async def test_waiting_ends_when_the_batch_is_gone(client: AsyncClient, server: Any, policy: str) -> None:
    handle = await client.submit(PROMPTS, None, CONFIG)
    server.delete(Keys(policy).ledger(handle.batch_id))
    with pytest.raises(UnknownBatchError, match="expired or were deleted"):
        await handle.done()
    with pytest.raises(UnknownBatchError, match="expired or were deleted"):
        await handle.result(timeout=60)


async def test_waiting_ends_when_answered_results_were_deleted(
    client: AsyncClient, redis_url: str, server: Any, policy: str
) -> None:
    handle = await client.submit([[1, 2]], None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(result(handle, 0))
    server.delete(worker.results)
    with pytest.raises(UnknownBatchError, match="0 of 1 results are left"):
        await handle.result(timeout=60)


# Redis away


async def test_results_survive_a_restart_of_redis(policy: str) -> None:
    with EmbeddedRedis() as own:
        async with AsyncClient(own.url, policy=policy, reconnect_s=30) as client:
            handle = await client.submit(PROMPTS, None, CONFIG)
            worker, groups = answering(own.url, policy, handle), handle.groups()
            worker.publish(result(handle, 1))
            seen = [(await anext(groups)).group]
            waiting = asyncio.ensure_future(anext(groups))
            own.stop()
            assert not (await asyncio.wait([waiting], timeout=0.3))[0], "gave up while Redis was away"
            own.start()
            worker.publish(*(result(handle, group) for group in (0, 2, 3)))
            seen += [(await waiting).group]
            seen += [answer.group async for answer in groups]
    assert seen == [1, 0, 2, 3]


async def test_a_wrong_address_is_reported_at_once_without_the_password(policy: str) -> None:
    async with AsyncClient("redis://me:secret@127.0.0.1:1/0", policy=policy, reconnect_s=60) as client:
        async with asyncio.timeout(5):
            with pytest.raises(
                RedisUnavailableError, match=r"cannot submit: Redis at redis://\*\*\*@127.0.0.1:1/0"
            ) as caught:
                await client.submit(PROMPTS, None, CONFIG)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
async def test_a_redis_that_cannot_take_writes_is_waited_for(own_redis: Any, policy: str, setting: str) -> None:
    async with AsyncClient(url_of(own_redis), policy=policy, reconnect_s=30) as client:
        own_redis.config_set(setting, 1)
        submitting = asyncio.ensure_future(client.submit(PROMPTS, None, CONFIG))
        assert not (await asyncio.wait([submitting], timeout=0.5))[0], "gave up while Redis refused writes"
        own_redis.config_set(setting, 0)
        assert (await submitting).num_groups == 4


async def test_a_busy_redis_is_waited_for_from_the_first_call(own_redis: Any, policy: str) -> None:
    own_redis.config_set("lua-time-limit", 1)
    async with AsyncClient(url_of(own_redis), policy=policy, reconnect_s=30) as client:
        with redis.Redis.from_url(url_of(own_redis)) as looping:
            endless = asyncio.create_task(asyncio.to_thread(looping.eval, "while true do end", 0))
            await asyncio.to_thread(wait_for, lambda: not answers(own_redis), 20, lambda: "it was never busy")
            submitting = asyncio.ensure_future(client.submit(PROMPTS, None, CONFIG))
            gave_up = (await asyncio.wait([submitting], timeout=0.5))[0]
            own_redis.script_kill()
            assert not gave_up
            assert (await submitting).num_groups == 4
            assert isinstance((await asyncio.gather(endless, return_exceptions=True))[0], redis.ResponseError)


@pytest.mark.parametrize(
    ("prepare", "user", "advice"),
    [
        (lambda server, _: server.config_set("maxmemory", 1), "", "raise its maxmemory"),
        (lambda server, _: server.config_set("requirepass", "right"), "", "check the user and the password"),
        (lambda server, _: server.config_set("requirepass", "right"), ":wrong@", "check the user and the password"),
        (lambda server, _: server.acl_setuser("weak", enabled=True, nopass=True, commands=["+ping"]), "weak:x@",
         "give this user the command"),
        (lambda server, keys: server.set(keys.ledger("b"), "x"), "", "something else wrote this policy's keys"),
    ],
    ids=["OOM", "no password", "wrong password", "NOPERM", "WRONGTYPE"],
)  # fmt: skip
async def test_advice_fits_what_redis_answered(
    own_redis: Any, policy: str, prepare: Any, user: str, advice: str
) -> None:
    prepare(own_redis, Keys(policy))
    url = url_of(own_redis).replace("redis://", f"redis://{user}")
    async with AsyncClient(url, policy=policy, reconnect_s=0.1) as client:
        with pytest.raises(RedisUnavailableError, match=advice):
            await client.submit(PROMPTS, None, CONFIG, batch_id="b")


def test_script_errors_of_an_old_redis_are_told_by_their_code() -> None:
    old = "Error running script (call to f_12): @user_script:14: @user_script: 14: -OOM command not allowed"
    assert fault_of(redis.ResponseError(old)) == fault_of(redis.exceptions.OutOfMemoryError("command not allowed"))
    assert not fault_of(redis.ResponseError("BUSYGROUP Consumer Group name already exists")).passes


def test_what_is_no_redis_url_is_refused_without_a_part_of_its_password() -> None:
    with pytest.raises(RedisUnavailableError, match="not a Redis URL"):
        AsyncClient("localhost:6379", policy="p")
    with pytest.raises(RedisUnavailableError, match="not a Redis URL") as caught:
        AsyncClient("redis://u:half/secret@h", policy="p")
    assert "half" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("protocol", "3"), ("decode_responses", "true"), ("socket_timeout", "1"), ("ssl_keyfile", "k"), ("colour", "red")],
)
def test_a_url_cannot_change_how_redis_is_spoken_to(option: str, value: str) -> None:
    with pytest.raises(RedisUnavailableError, match=f"must not set '{option}'; it may set client_name"):
        AsyncClient(f"redis://127.0.0.1/0?db=1&{option}={value}", policy="p")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://u:p@h:1/0?password=q", "rediss://***@h:1/0"),
        ("redis://:p@ss@h", "redis://***@h"),
        ("unix://u:p@/run/redis.sock?db=1", "unix://***@/run/redis.sock"),
    ],
)
def test_no_password_is_shown(url: str, expected: str) -> None:
    assert without_password(url) == expected


async def test_a_closed_client_says_so(redis_url: str, policy: str) -> None:
    client = AsyncClient(redis_url, policy=policy)
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.attach("b")


# Blocking


def test_the_blocking_client_does_the_same(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:
        handle = client.submit(PROMPTS, None, CONFIG, batch_id="b")
        worker = Answering(redis_url, policy, "b", 4)
        worker.publish(*(result_of(group, PROMPTS[group], [[10 + group]], "b") for group in (2, 0, 3, 1)))
        assert [answer.group for answer in handle.groups()] == [2, 0, 3, 1]
        assert client.attach("b").result(timeout=20).response_lengths.tolist() == [1, 1, 1, 1]
        assert handle.done() == len(handle.finished()) == 4
        assert list(handle.wait(timeout=20)) == [2, 0, 3, 1]
        assert (client.attach("b"), hash(client.attach("b"))) == (handle, hash(handle))
        assert repr(handle) == "<BlockingBatchHandle batch_id=b 4/4 groups>"
    with pytest.raises(ClientClosedError):
        handle.done()


async def test_the_blocking_client_works_inside_a_running_loop(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:
        handle = client.submit([[1]], None, CONFIG)
        with pytest.raises(ResultTimeoutError):
            handle.result(timeout=0.2)


# With a worker


def test_prompts_go_in_and_padded_rollouts_come_out(
    stub_worker: WorkerProcess, redis_url: str, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = GenerationConfig(max_new_tokens=6, num_return_sequences=3, seed=1)
    mask = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])
    with Client(redis_url, policy=policy) as client:
        rollouts = client.generate(
            torch.arange(1, 13).view(4, 3), mask, config, timeout=60, progress=True, pad_to_max_new_tokens=True
        )
    assert rollouts.sequences.shape == (12, 3 + 6)
    assert [rollouts.sequences[3 * g][rollouts.prompt_mask[3 * g].bool()].tolist() for g in (0, 1, 3)] == [
        [2, 3], [4, 6], [10, 11, 12],
    ]  # fmt: skip
    assert list(rollouts.errors) == [2]
    assert isinstance(rollouts.errors[2], GroupError)
    assert rollouts.errors[2].code == "empty_prompt"
    assert rollouts.response_lengths.view(4, 3)[2].tolist() == [0, 0, 0]
    assert "4/4" in capfd.readouterr().err


class LosingProxy:
    """Between a client and Redis: passes everything on, but cuts the connection instead of `lose_next` replies."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.lose_next = self.lost = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        requests = asyncio.create_task(self._pump(reader, upstream_writer))
        while data := await upstream_reader.read(65536):
            if self.lose_next:
                self.lose_next -= 1
                self.lost += 1
                break
            writer.write(data)
        requests.cancel()
        upstream_writer.close()
        writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def losing_replies(redis_url: str) -> AsyncIterator[LosingProxy]:
    host, port = redis_url.removeprefix("redis://").split("/")[0].rsplit(":", 1)
    proxy = LosingProxy((host, int(port)))
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with listener:
        proxy.url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
        yield proxy


async def test_no_cancellation_of_a_call_is_lost(redis_url: str) -> None:
    """redis-py loses some: a caller that is cancelled would go on calling."""
    connection = Connection(redis_url, reconnect_s=1)

    async def call_for_ever() -> None:
        while True:
            await connection.call("ping", lambda redis: redis.ping())

    for number in range(200):
        calling = asyncio.create_task(call_for_ever())
        await asyncio.sleep(number % 10 / 2000)
        calling.cancel()
        ended, _ = await asyncio.wait({calling}, timeout=1)
        assert ended, f"cancellation {number} was lost"
    await connection.aclose()
