"""The main path: what trainers, workers, operators and exporters do with a policy, each as a user of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import Activate, BatchConflictError, BatchConsumedError, Client, RequestConflictError
from rollstream.producer.batches.ledger import read_description
from rollstream.producer.batches.lost_jobs import JobsLeft
from rollstream.producer.batches.waiting_facts import _other_policies, read_facts
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.producer.policies.adapter_expiry import expire_superseded
from rollstream.producer.policies.parked import read_parked
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.sessions.arguments import batch_of
from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.keys import GROUP, horizons
from rollstream.transport.acl import Role, missing_rights
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.weights import store_of
from rollstream.worker.intake.batch_index import BatchIndex
from rollstream.worker.intake.janitor import Janitor, Retention
from rollstream.worker.redis_io.connections import connect
from tests.support.command_line import Command
from tests.support.fault_steps import kill, stub_flags, tokens
from tests.support.faults import Queue
from tests.support.gateway.served import gateway_of
from tests.support.pictures import file_of
from tests.support.roles.image_steps import fill_up
from tests.support.watching.exporters import exporting
from tests.support.watching.served_page import TOKEN, reading, served
from tests.support.weights.versions import wait_until_serves
from tests.support.worker_process import WorkerProcess, wait_for

POISON = 13
IMAGE = 14
"""The stub's placeholder of an image."""
ROUTED = tokens(2).model_copy(update={"routed_experts": True})


@dataclass(kw_only=True)
class MainPath:
    """`url_of` gives the URL of a role; `redis_url` is that of a user who may do all, on the server of the reports."""

    redis_url: str
    url_of: Callable[[str], str]
    policy: str
    model: Path
    folder: Path
    partitions: int = 1

    def run(self) -> None:
        with Queue(self.redis_url, self.policy) as queue, self._client() as client:
            self._before_workers(client)
            with self._worker() as worker:
                self._serve(client)
                self._weights(client, queue, worker)
                self._operate()
            asyncio.run(self._seldom())
            self._deaths(client, queue)
            self._after_workers()
            asyncio.run(self._clean())

    def short(self) -> None:
        """The part of it that every day has."""
        with self._client() as client:
            self._before_workers(client)
            with self._worker():
                self._serve(client)
                for words in (["pause"], ["resume"], ["status"], ["batches"], ["dead", "ls"], ["doctor"]):
                    self._ok(*words)
                with exporting(self.url_of("exporter"), self.policy) as exporter:
                    assert "rollstream_queue_jobs" in exporter.text()

    def _client(self) -> Client:
        return Client(
            self.url_of("producer"), policy=self.policy, partitions=self.partitions, weights="redis", reconnect_s=5
        )

    @property
    def _operator(self) -> Command:
        return Command(self.url_of("operator"), self.policy)

    def _flags(self, *flags: str) -> list[str]:
        return [
            "--redis", self.url_of("worker"), *stub_flags(lease_s=1.0), "--model", str(self.model), "--lora",
            "--weights", "redis", "--weights-cache", str(self.folder / "cache"), "--weight-transfer", "gloo",
            "--adapter-cache", str(self.folder / "adapters"), "--stub-image-token", str(IMAGE), "--routed-experts",
            *flags,
        ]  # fmt: skip

    @contextlib.contextmanager
    def _worker(self, *flags: str) -> Iterator[WorkerProcess]:
        worker = WorkerProcess(self.redis_url, self.policy, *self._flags(*flags))
        try:
            yield worker.wait_until_serving()
            if worker.process.poll() is None:
                worker.process.terminate()
            assert worker.process.wait(30) == 0, worker.log
        finally:
            worker.end()
        assert "NOPERM" not in worker.log, worker.log
        assert "ermission" not in worker.log, worker.log

    def _before_workers(self, client: Client) -> None:
        """Nobody is there yet."""
        self._ok("lease", "--set", "1")
        client.submit([[9]], None, ROUTED, batch_id="early")
        self._ok("cancel", "early")
        assert client.submit([[8], [9]], None, tokens(1), batch_id="cut").cancel(groups=[0]) == 1
        self._ok("cancel", "cut", "--groups", "0-1")

    async def _stream(self) -> None:
        """A gateway has a producer's rights, and reads parts too."""
        options = {"stream": True, "max_tokens": 30, "ignore_eos": True}
        async with gateway_of(
            self.url_of("producer"), self.policy, self.model, partitions=self.partitions, timeout_s=20
        ) as gateway:
            answer = await gateway.complete(**options)
            assert gateway.site.feed.trouble == ""
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text

    def _serve(self, client: Client) -> None:
        done = client.generate([[1], [2]], None, tokens(3), batch_id="first", timeout=20)
        assert done.errors == {}
        assert client.attach("first").result(timeout=20).errors == {}
        some = client.generate([[1], [2], [3]], None, tokens(3), batch_id="some", timeout=20, first_groups=1)
        assert {error.code for error in some.errors.values()} <= {"not_needed"}
        routed = client.submit([[1], [2]], None, ROUTED)
        routed.wait(timeout=20)
        assert len(routed.routed_experts(0)) == 1
        client.submit([[9]], None, ROUTED, min_policy_version=99).cancel()
        assert client.score([[1, 2, 3], [4, 5, 6]], timeout=20).errors == {}
        write_adapter(self.folder, "math@1", model=self.model, seed=1)
        name = client.publish_adapter("math", 1, self.folder / "math@1")
        assert client.publish_adapter("math", 1, self.folder / "math@1") == name
        done = client.generate([[3]], None, tokens(2), adapter=name, timeout=20)
        assert done.errors == {}, done.errors
        seen = client.generate([[IMAGE]], None, tokens(2), images=[[file_of("png")]], batch_id="seen", timeout=20)
        assert seen.errors == {}
        assert client.score(seen, timeout=20).errors == {}
        client.submit([[4]], None, tokens(2), min_policy_version=99, batch_id="later")
        handle = client.submit([[4]], None, tokens(2), batch_id="gone", min_policy_version=98)
        handle.cancel()
        self._talk(client)
        asyncio.run(self._stream())
        with client.run("exp") as run:
            left = run.submit([[5]], None, tokens(2), batch_id="left")
            run.submit([[6]], None, tokens(2))
            left.result(timeout=20)
            run.consumed(left, cursor=1)
            with pytest.raises(BatchConsumedError):
                run.submit([[5]], None, tokens(2), batch_id="left")
            with pytest.raises(BatchConflictError):
                run.submit([[5]], None, tokens(2), batch_id="first")

    def _talk(self, client: Client) -> None:
        session = client.session("talk")
        for _ in range(2):  # the second time it is a repeat
            session.submit([1], tokens(2), request_id="first").result(timeout=20)
        session.submit([2], tokens(2), continue_of="last").result(timeout=20)
        session.trajectory()
        client.submit([[5]], None, tokens(2), batch_id=batch_of("talk", "taken"))
        with pytest.raises(RequestConflictError):
            session.submit([1], tokens(2), request_id="taken")
        self._ok("sessions")
        self._ok("sessions", "talk")

    def _weights(self, client: Client, queue: Queue, worker: WorkerProcess) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        client.publish_policy(1, model=model)
        client.wait_for_version(1, timeout=30)
        with torch.no_grad():
            model.model.norm.weight += 0.5
        client.publish_policy(2, model=model, activate="by_hand")
        client.activate(2)
        wait_until_serves(worker, queue, 2)
        client.publish_policy(3, again=1, activate="by_hand")
        self._ok("activate", "3", "--weights", "redis")
        wait_until_serves(worker, queue, 3)
        client.publish_policy(4, again=2, activate=Activate(when="when_prepared", share=0.5))
        wait_until_serves(worker, queue, 4)
        with torch.no_grad():
            model.model.norm.weight += 0.5
        client.publish_policy(5, model=model, transport="gloo")
        wait_until_serves(worker, queue, 5)
        client.submit([[4]], None, tokens(2), min_policy_version=5).result(timeout=20)

    def _operate(self) -> None:
        golden = str(self.folder / "jobs.golden")
        for words in (
            ["pause"], ["status"], ["resume"], ["status", "--json"], ["batches"], ["lease"], ["versions"],
            ["runs"], ["runs", "--run", "exp"], ["runs", "--forget", "exp", "--yes"],
            ["golden", "record", "--cases", "2", "--out", golden], ["golden", "check", golden],
            ["replay", "--batch", "first"], ["replay", "--batch", "seen"], ["doctor"],
        ):  # fmt: skip
            self._ok(*words)
        asyncio.run(self._look())
        with exporting(self.url_of("exporter"), self.policy) as exporter:
            assert "rollstream_queue_jobs" in exporter.text()
        status = Command(self.url_of("exporter"), self.policy)("status")
        assert status.exit_code == 0, status.output

    async def _clean(self) -> None:
        """What a worker does once a minute."""
        keys, redis = Keys(self.policy), connect(self.url_of("worker"))
        try:
            admission: Any = None
            janitor = Janitor(
                redis=redis, jobs_keys=[keys.jobs(0)], retention=Retention(seconds=0, nbytes=0), admission=admission
            )
            await janitor.trim(keys.jobs(0))
            await janitor.remove_dead_consumers(keys.jobs(0), 0)
            with Queue(self.redis_url, self.policy) as queue:
                self._set_clock_back(queue)
                await janitor.trim(keys.jobs(0))
                queue.redis.delete(horizons(keys.jobs(0)), keys.jobs(0))
            await BatchIndex(redis=redis, keys=keys, admission=admission).tidy(0)
        finally:
            await redis.aclose()

    def _set_clock_back(self, queue: Queue) -> None:
        """The last entry is of a time to come, and so is a note of when one was delivered."""
        jobs, to_come = queue.keys.jobs(0), int(time.time() + 3600) * 1000
        queue.redis.xadd(jobs, {"batch": "b"}, id=f"{to_come}-0")
        queue.redis.xgroup_setid(jobs, GROUP, "$")
        queue.redis.hset(horizons(jobs), "1-1", to_come)

    async def _seldom(self) -> None:
        """What is asked only where a wait is long, a store is full or an adapter was a policy version."""
        keys = Keys(self.policy)
        for role in (Role.PRODUCER, Role.OPERATOR):
            connection = Connection(access=self.url_of(role), reconnect_s=5)
            batch: Any = await read_description(connection, keys, "later")
            await read_facts(connection, keys, batch)
            assert not await JobsLeft(connection=connection, keys=keys, batch=batch, was_queued=True).are_lost()
            await connection.call("parked", partial(read_parked, jobs=keys.jobs(0), now=time.time()))
            with Queue(self.redis_url, self.policy) as queue:
                await fill_up(connection, queue)
            nobody = Keys(self.policy, partitions=1)
            await connection.call("policies", _other_policies)
            assert nobody == keys
            if role is Role.PRODUCER:
                store = store_of("redis", keys, connection.call)
                await store.put("0" * 64, b"x")
                await store.delete(["0" * 64])
                named = [
                    PolicyVersion(version=1, source="adapter", location="policy.x@1", sha256="0" * 64, published_at=0.0)
                ]
                await expire_superseded(connection, keys, named, active=2)
            await connection.aclose()
        for role in Role:
            redis = connect(RedisAccess(url=self.url_of(role)))
            assert await missing_rights(redis, role, keys) == {}
            await redis.ping()
            await redis.aclose()

    async def _look(self) -> None:
        keys = Keys(self.policy)
        async with served(token=TOKEN, allow_actions=True, **reading(self.url_of("operator"), keys)) as page:
            await page.log_in()
            for path in ("fleet", "batches/first", "batches/first/groups/0"):
                told = await page.http.get(f"/api/{path}")
                assert told.status_code == 200, (path, told.text)
            assert (await page.act("pause")).status_code == 200
            assert (await page.act("resume")).status_code == 200

    def _deaths(self, client: Client, queue: Queue) -> None:
        """A worker is killed with a job, which kills all others too."""
        with contextlib.ExitStack() as stack:
            slow = WorkerProcess(self.redis_url, self.policy, *self._flags("--stub-tokens-per-s", "1"))
            stack.callback(slow.end)
            slow.wait_until_serving()
            handle = client.submit([[7]], None, tokens(20), batch_id="taken-over")
            wait_for(lambda: bool(queue.holders()), 20, lambda: slow.log)
            kill(slow)
            with self._worker("--retention-s", "1", "--result-ttl-s", "1") as heir:
                assert handle.result(timeout=30).errors == {}
                time.sleep(0)
                assert heir.process.poll() is None
        poisonous = ["--stub-poison-token", str(POISON), "--max-deliveries", "1"]
        handle = client.submit([[POISON]], None, tokens(2), batch_id="poison")
        killer = WorkerProcess(self.redis_url, self.policy, *self._flags(*poisonous))
        killer.process.wait(30)
        killer.end()
        with self._worker(*poisonous):
            assert len(handle.result(timeout=30).errors) == 1

    def _after_workers(self) -> None:
        for words in (["dead", "ls"], ["dead", "requeue", "--all"], ["dead", "drop", "--all", "--yes"]):
            self._ok(*words)
        with self._worker() as worker:
            self._ok("drain", "--all", "--wait", "--timeout", "30")
            worker.process.wait(30)

    def _ok(self, *words: str) -> str:
        done = self._operator(*words)
        assert done.exit_code == 0, (words, done.output, done.stderr)
        return str(done.stdout)
