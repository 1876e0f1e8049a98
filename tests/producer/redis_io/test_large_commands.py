"""What Redis never takes for its size is an error with both numbers, at once, and keeps nothing else from its way."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis as blocking
import torch

from rollstream import AsyncClient, Client, GenerationConfig, TooLargeForRedisError
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.faults import Queue
from tests.support.worker_process import running_worker

LIMIT = 2**20
NO_CONFIG = "redis://narrow:secret@"


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A server of its own that takes no more than a mebibyte in one piece."""
    with EmbeddedRedis() as server:
        with blocking.Redis.from_url(server.url) as admin:
            admin.config_set("proto-max-bulk-len", LIMIT)
            admin.execute_command("ACL", "SETUSER", "narrow", "on", ">secret", "~*", "+@all", "-config")
        yield server.url


def test_a_job_is_refused_before_anything_is_queued(client: Client, queue: Queue) -> None:
    started = time.monotonic()
    with pytest.raises(TooLargeForRedisError, match=r"takes at most 1048576 \(proto-max-bulk-len\)") as raised:
        client.submit([[7]] * 64 + [[7] * 300_000], None, GenerationConfig(max_new_tokens=1), prompts_per_job=1)

    assert time.monotonic() - started < 20
    assert (raised.value.limit, raised.value.setting) == (LIMIT, "proto-max-bulk-len")
    assert raised.value.nbytes > 1_200_000
    assert queue.entries() == []


async def test_an_adapter_is_refused(trainer: AsyncClient) -> None:
    layer = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    tensors = {layer.format("A"): torch.ones(64, 4096), layer.format("B"): torch.ones(4096, 64)}

    with pytest.raises(TooLargeForRedisError, match="1048576"):
        await trainer.publish_adapter("big", 1, tensors, lora_alpha=8)


@pytest.mark.parametrize("tells", [True, False], ids=["limit known", "limit not known"])
def test_an_answer_is_a_too_long_error_and_its_neighbours_are_published(
    redis_url: str, policy: str, client: Client, queue: Queue, tells: bool
) -> None:
    url = redis_url if tells else redis_url.replace("redis://", NO_CONFIG)
    with running_worker(url, policy, "--engine", "stub", "--max-num-seqs", "512") as worker:
        wide = client.submit(
            [[5]], None, GenerationConfig(max_new_tokens=4000, num_return_sequences=64, ignore_eos=True)
        )
        others = client.submit([[5 + row] for row in range(64)], None, GenerationConfig(max_new_tokens=4))
        narrow = others.result(timeout=20)
        found = wide.result(timeout=20)
        code = worker.process.poll()

    assert narrow.errors == {}
    assert found.errors[0].code == "too_long"
    assert "bytes" in found.errors[0].message
    assert ("at most 1048576" if tells else "not known") in found.errors[0].message
    assert (code, queue.dead()) == (None, [])


def test_a_job_that_a_proxy_refuses_is_told_without_the_limit(redis_url: str, policy: str) -> None:
    with (
        Client(redis_url.replace("redis://", NO_CONFIG), policy=policy, reconnect_s=30) as client,
        pytest.raises(TooLargeForRedisError, match="closes the connection") as raised,
    ):
        client.submit([[7] * 300_000], None, GenerationConfig(max_new_tokens=1))

    assert raised.value.limit == 0


def test_an_unreadable_job_larger_than_a_command_may_be_is_kept_whole(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    batch = client.submit([[5]], None, GenerationConfig(max_new_tokens=1), batch_id="first")
    ((_, fields),) = queue.entries()
    queue.redis.delete(queue.jobs_key)
    payload = b"\xc1" * (3 * LIMIT)
    grow = "return redis.call('XADD', KEYS[1], '*', 'payload', string.rep('\\193', ARGV[1]), unpack(ARGV, 2))"
    plain = [word for name, value in fields.items() if name != b"payload" for word in (name, value)]
    queue.redis.eval(grow, 1, queue.jobs_key, len(payload), *plain)

    with running_worker(redis_url, policy, "--engine", "stub"):
        found = batch.result(timeout=20)

    ((_, kept),) = queue.dead()
    assert found.errors[0].code == "unreadable_job"
    assert kept == payload
