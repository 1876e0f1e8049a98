"""How much one Redis can serve: the commands of trainer and workers, with real messages, as fast as Redis answers.

One process has many connections with one command under way on each. So Redis reads, runs and answers every command by
itself, where workers would send several together. Answers are made once and sent again and again, so that the sender
takes less time than Redis.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from redis import Connection

from benchmarks.queue.crowd import PROMPTS_PER_JOB, VOCABULARY
from benchmarks.queue.redis_work import Work, between, look
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.scripts import submit_call
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.order.slicing import Slicing
from rollstream.schemas import GenerationConfig, GroupResult, Job, Keys, RollstreamError, Sealed, decode, encode
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.keys import GROUP
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.delivery.scripts import PUBLISH, publish_call
from rollstream.worker.jobs.make_answers import Sampled, group_result
from rollstream.worker.jobs.prompts.image_prompts import Prompt
from rollstream.worker.requests import Completion

GPUS = {"3 replicas": 45_788, "AsyncLLM, default": 16_458}
"""Tokens a second of one H100 with a model of 1.5 B parameters (docs/performance.md)."""
LANES = 24
PROMPTS = 64
TTL_S = 2
"""TTL of a batch's results: long enough to read them, short enough that Redis frees them during the measurement."""
WARM_UP_S = 1.0

_CONNECTION: Any = Connection  # redis-py does not type it
Command = Sequence[Any]
Traffic = Generator[Command, Any, None]


class ReplayFailedError(RollstreamError):
    """Raised when Redis answers otherwise than it answers a worker: the counts would mean nothing."""


@dataclass(frozen=True)
class Size:
    """The size of a group; all completions have full length and log-probs."""

    n: int
    new_tokens: int
    prompt_len: int = 256

    @property
    def name(self) -> str:
        """The name for a table."""
        return f"n = {self.n}, {self.new_tokens} token{'s' * (self.new_tokens > 1)}"

    @property
    def tokens(self) -> int:
        """Sampled tokens of a group."""
        return self.n * self.new_tokens


SIZES = (Size(1, 1, 32), Size(8, 128), Size(8, 512), Size(8, 1024))


@dataclass(frozen=True)
class Reached:
    """The counts of a few seconds."""

    work: Work
    groups: int
    payload: int
    """Size of a group's answer in bytes."""


class Lane:
    """Runs one batch after the other on its own policy: submit, read the job, answer, read the answers."""

    def __init__(self, client: redis.Redis, number: int, size: Size) -> None:
        self._keys = Keys(f"limit-{number}")
        self._size = size
        self._config = GenerationConfig(
            max_new_tokens=size.new_tokens, num_return_sequences=size.n, ignore_eos=True, logprobs="processed"
        )
        ids = np.random.default_rng(number).integers(10, VOCABULARY, (PROMPTS, size.prompt_len))
        self._prompts = Prompts.of(ids, None)
        client.script_load(PUBLISH.text)
        client.xgroup_create(self._keys.jobs(0), GROUP, id="0", mkstream=True)
        self._answer = b""
        self.groups = 0

    @property
    def payload(self) -> int:
        """Size of an answer in bytes."""
        return len(self._answer)

    def traffic(self) -> Traffic:
        """A generator of commands without end; it is sent Redis' answer to each."""
        for number in itertools.count():
            batch_id = f"batch-{number}"
            batch = split(
                self._prompts, self._config, batch_id=batch_id, adapter=None,
                slicing=Slicing(prompts_per_job=PROMPTS_PER_JOB), submitted_at=time.time(),
            )  # fmt: skip
            self._answer = self._answer or _answer(batch, self._size)
            yield from self._one(batch, batch_id)

    def _one(self, batch: Submission, batch_id: str) -> Traffic:
        jobs, ledger, results = self._keys.jobs(0), self._keys.ledger(batch_id), self._keys.results(batch_id)
        last, sealed = str(BEFORE_ALL), encode(Sealed(batch_id=batch_id, num_groups=PROMPTS))
        for chunk in batch.chunks():
            yield submit_call(self._keys, batch, chunk).whole
        for envelope, _ in batch.jobs:
            reply = yield "XREADGROUP", "GROUP", GROUP, "worker", "COUNT", 1, "STREAMS", jobs, ">"
            lease = Lease(
                jobs_key=jobs,
                dead_key=self._keys.dead(0),
                entry_id=reply[0][1][0][0].decode(),
                consumer="worker",
                delivery=1,
                ends_at=0,
            )
            yield "HMGET", ledger, LedgerField.CANCELLED, *map(LedgerField.group, envelope.groups)
            for group in envelope.groups:
                outcome = yield publish_call(
                    lease, self._keys, envelope, group=group, kind="result", payload=self._answer, sealed=sealed,
                    keep_s=TTL_S,
                ).by_digest  # fmt: skip
                if outcome != b"published":
                    raise ReplayFailedError(f"publish: {outcome!r}")
                reply = yield "XREAD", "COUNT", 1, "STREAMS", results, last
                last = reply[0][1][0][0]
                self.groups += 1


def _answer(batch: Submission, size: Size) -> bytes:
    """A group's answer, as a worker encodes it."""
    job = decode(batch.jobs[0][1], Job)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (size.n, size.new_tokens)).astype(np.int32)
    completions = [
        Completion(
            token_ids=row,
            logprobs=np.full(len(row), -10.4, np.float32),
            finish_reason="length",
            stop_reason=None,
            version_spans=((0, len(row)),),
        )
        for row in tokens
    ]
    lease = Lease(jobs_key="", dead_key="", entry_id="", consumer="worker-name-1234-abcdef", delivery=1, ends_at=0)
    prompt, sampled = Prompt(ids=job.prompts[0]), Sampled(completions=completions)
    encoded = encode(group_result(lease, job, 0, prompt, sampled, time.time()))
    decode(encoded, GroupResult)
    return encoded


def replay(server: EmbeddedRedis, size: Size, seconds: float, *, appendonly: bool) -> Reached:
    """Run all lanes at once on an empty Redis. Raises `ReplayFailedError`."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.config_set("appendfsync", "everysec")
        client.config_set("appendonly", "yes" if appendonly else "no")
        lanes = [Lane(client, number, size) for number in range(LANES)]
        sending = _Sending(server.port, lanes)
        try:
            sending.go_on(WARM_UP_S)
            first, began, groups = look(client), time.perf_counter(), sending.groups
            sending.go_on(seconds)
            work = between(first, look(client), time.perf_counter() - began)
            return Reached(work, sending.groups - groups, lanes[0].payload)
        finally:
            sending.close()


class _Sending:
    """Sends the commands of all lanes, each on its own connection."""

    def __init__(self, port: int, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._running: list[tuple[Any, Traffic]] = []
        for lane in lanes:
            connection: Any = _CONNECTION(port=port, protocol=2)
            traffic = lane.traffic()
            connection.connect()
            connection.send_command(*next(traffic))
            self._running.append((connection, traffic))

    @property
    def groups(self) -> int:
        """Groups answered and read so far."""
        return sum(lane.groups for lane in self._lanes)

    def go_on(self, seconds: float) -> None:
        """For each lane in turn, read a reply and send the next command."""
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for connection, traffic in self._running:
                connection.send_command(*traffic.send(connection.read_response()))

    def close(self) -> None:
        """Close all connections."""
        for connection, _ in self._running:
            connection.disconnect()


def limit(sizes: Sequence[Size], seconds: float) -> list[Report]:
    """What a group costs Redis, and how many GPUs a Redis can feed, without and with an append-only file."""
    found: dict[str, dict[str, Reached]] = {size.name: {} for size in sizes}
    with EmbeddedRedis() as server:
        for appendonly in (False, True):
            for size in sizes:
                reached = replay(server, size, seconds, appendonly=appendonly)
                found[size.name]["append-only, everysec" if appendonly else "in memory"] = reached
                report.say(f"{size.name}: {reached.groups / reached.work.seconds:,.0f} groups/s")
        with redis.Redis.from_url(server.url) as client:
            version: Any = client.info("server")
    costs = [_costs(size, found[size.name]) for size in sizes]
    fed = [_fed(size, found[size.name]) for size in sizes if size.tokens > 1]
    return [
        Report("scale, Redis alone", costs, {"redis": version["redis_version"], "connections": LANES}),
        Report("scale, GPUs a core of Redis", fed, {"tokens_per_s": GPUS}),
    ]


def _costs(size: Size, reached: dict[str, Reached]) -> Scenario:
    runs, details = {}, dict[str, Any]()
    for arm, one in reached.items():
        runs[arm] = [1e6 * one.work.cpu_s / one.groups]
        details[arm] = {
            "groups_a_s": round(one.groups / one.work.seconds), "payload_bytes": one.payload,
            "main_thread_cores": round(one.work.main_cpu_s / one.work.seconds, 3),
            "cpu_us_a_kib": round(runs[arm][0] / (one.payload / 1024), 3), "a_group": one.work.a_group(one.groups),
        }  # fmt: skip
    about = f"a group of {size.tokens} tokens, log-probs, prompts of {size.prompt_len}, 8 groups a job"
    return Scenario(size.name, about, "µs of CPU a group", "in memory", runs, details)


def _fed(size: Size, reached: dict[str, Reached]) -> Scenario:
    runs, details = {}, dict[str, Any]()
    for arm, one in reached.items():
        for gpu, tokens_per_s in GPUS.items():
            name = f"{gpu}, {arm}"
            runs[name] = [gpus_a_core(tokens_per_s, size.tokens, 1e6 * one.work.cpu_s / one.groups)]
            details[name] = {
                "mbit_in_a_gpu": round(mbit_a_gpu(tokens_per_s, size.tokens, one.work.bytes_in / one.groups), 2),
                "mbit_out_a_gpu": round(mbit_a_gpu(tokens_per_s, size.tokens, one.work.bytes_out / one.groups), 2),
            }
    return Scenario(size.name, "GPUs until one core of Redis is full", "GPUs", "", runs, details)


def gpus_a_core(tokens_per_s: float, tokens_a_group: int, cpu_us_a_group: float) -> float:
    """How many GPUs of that speed it takes until their groups use all of a core."""
    return 1e6 / (tokens_per_s / tokens_a_group * cpu_us_a_group)


def mbit_a_gpu(tokens_per_s: float, tokens_a_group: int, bytes_a_group: float) -> float:
    """Megabits a second between Redis and one GPU of that speed."""
    return tokens_per_s / tokens_a_group * bytes_a_group * 8 / 1e6
