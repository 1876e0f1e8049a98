"""Submit is safe to repeat, queues every job once, and leaves nothing of what cannot be submitted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import (
    AsyncClient,
    BatchConflictError,
    ConfigError,
    GenerationConfig,
    NameRefusedError,
    PromptsError,
    UnknownBatchError,
    WireError,
)
from rollstream.producer.batches import scripts
from rollstream.producer.batches.submission import Chunk, Submission
from rollstream.schemas import Keys
from rollstream.transport.redis.scripts import Call
from tests.support.batches import CONFIG, PROMPTS, entries
from tests.support.reports import report_of


async def test_submit_queues_jobs_that_cover_the_batch_once(trainer: AsyncClient, server: Any, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, adapter="math@3", batch_id="b", prompts_per_job=3)
    jobs = entries(server, policy)
    assert [(envelope.job, envelope.groups) for envelope, _ in jobs] == [(0, range(3)), (1, range(3, 4))]
    assert [prompt.tolist() for _, job in jobs for prompt in job.prompts] == PROMPTS
    assert [(job.batch_id, job.num_groups, job.adapter, job.config) for _, job in jobs] == [
        ("b", 4, "math@3", CONFIG)
    ] * 2
    assert (handle.num_groups, handle.batch.num_jobs, handle.batch.prompt_width) == (4, 2, 3)
    assert repr(handle) == "<BatchHandle batch_id=b 0/4 groups>"


async def test_submitting_the_same_content_again_queues_nothing(
    trainer: AsyncClient, server: Any, redis_url: str, policy: str
) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]])
    first = await trainer.submit(tensor, tensor > 0, CONFIG, batch_id="b", prompts_per_job=1)
    async with AsyncClient(redis_url, policy=policy) as other:
        second = await other.submit(tensor.numpy(), (tensor > 0).numpy(), CONFIG, batch_id="b", prompts_per_job=1)
    assert len(entries(server, policy)) == 2
    assert (second, hash(second)) == (first, hash(first))
    assert second != await trainer.submit(PROMPTS, None, CONFIG)


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
    trainer: AsyncClient, server: Any, policy: str, changes: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"input_ids": PROMPTS, "config": CONFIG, "batch_id": "b", "prompts_per_job": 3}
    await trainer.submit(**given)
    before = len(entries(server, policy))
    with pytest.raises(BatchConflictError, match="'b' was already submitted"):
        await trainer.submit(**given | changes)
    assert len(entries(server, policy)) == before


async def test_the_order_of_a_logit_bias_is_no_content(trainer: AsyncClient, server: Any, policy: str) -> None:
    for bias in ({1: 1.0, 2: 2.0}, {2: 2.0, 1: 1.0}):
        await trainer.submit(PROMPTS, None, GenerationConfig(max_new_tokens=4, logit_bias=bias), batch_id="b")
    assert len(entries(server, policy)) == 1


async def test_a_submit_that_died_half_way_is_completed_by_the_next(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
    keys = Keys(policy)
    last_entry = server.hget(keys.ledger("b"), "job:3")
    server.xdel(keys.jobs(0), last_entry)  # as if the producer had died before the last job
    server.hdel(keys.ledger("b"), "job:3")
    await trainer.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
    assert [envelope.job for envelope, _ in entries(server, policy)] == [0, 1, 2, 3]


async def test_a_lost_reply_does_not_queue_a_job_twice(redis_url: str, server: Any, policy: str) -> None:
    async with losing_replies(redis_url) as proxy, AsyncClient(proxy.url, policy=policy, reconnect_s=10) as trainer:
        await trainer.submit([[9]], None, CONFIG, batch_id="warm-up")
        proxy.lose_next = 1
        handle = await trainer.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
        assert (proxy.lost, handle.is_repeat) == (1, False)
        again = await trainer.submit(PROMPTS, None, CONFIG, batch_id="b", prompts_per_job=1)
        assert again.is_repeat
    jobs = [envelope.job for envelope, _ in entries(server, policy) if envelope.batch_id == "b"]
    assert jobs == [0, 1, 2, 3]


async def test_many_jobs_travel_in_bounded_script_calls(trainer: AsyncClient, server: Any, policy: str) -> None:
    await trainer.submit([[n + 1] for n in range(200)], None, CONFIG, prompts_per_job=1)
    assert [envelope.first_group for envelope, _ in entries(server, policy)] == list(range(200))


async def test_jobs_that_redis_loses_while_others_are_queued_are_queued_again(
    trainer: AsyncClient, server: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is emptied between two script calls of one submit."""
    losses = emptied_between_calls(server, policy, monkeypatch, times=1)
    handle = await trainer.submit([[n + 1] for n in range(100)], None, CONFIG, batch_id="b", prompts_per_job=1)
    assert sorted(envelope.job for envelope, _ in entries(server, policy)) == list(range(100))
    assert (losses, await handle.done()) == ([64], 0)


async def test_a_redis_that_loses_jobs_again_and_again_is_an_error(
    trainer: AsyncClient, server: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = emptied_between_calls(server, policy, monkeypatch, times=99)
    with pytest.raises(UnknownBatchError, match="lost its first jobs"):
        await trainer.submit([[n + 1] for n in range(100)], None, CONFIG, batch_id="b", prompts_per_job=1)
    assert len(losses) == 3


def emptied_between_calls(server: Any, policy: str, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Delete this policy's keys before each second script call; how many jobs were there then."""
    losses: list[int] = []
    submit_call = scripts.submit_call

    def emptying(keys: Keys, submission: Submission, chunk: Chunk) -> Call:
        if chunk[0][0].job > 0 and len(losses) < times:
            losses.append(server.xlen(Keys(policy).jobs(0)))
            server.delete(Keys(policy).jobs(0), Keys(policy).ledger("b"))
        return submit_call(keys, submission, chunk)

    monkeypatch.setattr(scripts, "submit_call", emptying)
    return losses


async def test_a_batch_goes_to_its_own_partition(redis_url: str, server: Any, policy: str) -> None:
    async with AsyncClient(redis_url, policy=policy, partitions=4) as trainer:
        for number in range(8):
            await trainer.submit(PROMPTS, None, CONFIG, batch_id=f"b{number}")
    keys = Keys(policy, partitions=4)
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
        ({"input_ids": np.ones((2, 2**23), np.int32)}, WireError, "fewer prompts per job"),
        ({"input_ids": np.ones((1, 2**24), np.int32)}, ConfigError, "or shorten the prompt"),
    ],
)
async def test_what_cannot_be_submitted_leaves_nothing_behind(
    trainer: AsyncClient, server: Any, policy: str, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    given: dict[str, Any] = {"input_ids": PROMPTS, "config": CONFIG}
    with pytest.raises(error, match=words):
        await trainer.submit(**given | changes)
    assert list(server.scan_iter(f"*{policy}*")) == []


class LosingProxy:
    """Between a trainer and Redis: passes everything on, but cuts the connection instead of `lose_next` replies."""

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


async def test_more_candidates_than_every_live_worker_gives_are_refused_at_submit(
    trainer: AsyncClient, server: Any, policy: str
) -> None:
    for worker, limit in (("w1", "20"), ("w2", "8")):
        report_of(server, Keys(policy), worker, {"state": "serving", "max_logprobs": limit})
    await trainer.submit(PROMPTS, None, CONFIG.model_copy(update={"top_logprobs": 20}), batch_id="a")
    with pytest.raises(ConfigError, match=r"top_logprobs.* no live worker gives more than 20"):
        await trainer.submit(PROMPTS, None, CONFIG.model_copy(update={"top_logprobs": 21}), batch_id="b")
    with pytest.raises(UnknownBatchError):
        await trainer.attach("b")
    report_of(server, Keys(policy), "w3", {"state": "serving"})
    await trainer.submit(PROMPTS, None, CONFIG.model_copy(update={"top_logprobs": 21}), batch_id="c")
