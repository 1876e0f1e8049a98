"""What one reading of the page, `rollstream top` or the exporter costs, in an empty queue and in a full one.

The full one has a million entries in the streams of jobs, the reports of 500 workers, 10,000 batches of which 200 are
under way, an hour of history and 400 dead letters of 64 KiB, in 16 partitions. The first reading looks at what the next
ones remember.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.queue.redis_work import Work, between, look
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import DeadLetter, Envelope, Keys, encode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.hashes.history import HistoryField
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import GROUP
from rollstream.schemas.wire.entry_fields import LETTER, PAYLOAD

_ADD = """
for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2)) end
"""
_PAYLOAD_BYTES = 64
_LETTER_BYTES = 64 * 2**10
_KEPT_S = 3600


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is in Redis."""

    entries: int = 1_000_000
    workers: int = 500
    batches: int = 10_000
    under_way: int = 200
    letters: int = 400
    partitions: int = 16


def fill(client: redis.Redis, keys: Keys, amount: Amount) -> None:
    """Write as much as `amount` says, as workers and producers do."""
    now = time.time()
    for partition in range(keys.partitions):
        _fill_stream(client, keys, partition, amount.entries // keys.partitions)
    with client.pipeline(transaction=False) as pipe:
        for number in range(amount.workers):
            _beat(pipe, keys, f"gpu-{number}", now)
        for minute in range(int(now // 60) - 60, int(now // 60)):
            pipe.hset(keys.history(minute), mapping=dict(_sums()))
        for number in range(amount.batches):
            _batch(
                pipe, keys, number, now - amount.batches + number, is_done=number < amount.batches - amount.under_way
            )
        letter = _letter(keys.policy)
        for number in range(amount.letters):
            pipe.xadd(keys.dead(number % keys.partitions), {LETTER: letter, PAYLOAD: b"x" * _LETTER_BYTES})
        pipe.execute()


def _fill_stream(client: redis.Redis, keys: Keys, partition: int, entries: int) -> None:
    """A quarter of the entries was delivered, and a tenth of these is pending."""
    stream = keys.jobs(partition)
    envelope = Envelope(batch_id="filled", job=0, first_group=0, job_groups=8, num_groups=8, tokens=4096)
    words: list[Any] = [word for pair in envelope.fields(b"x" * _PAYLOAD_BYTES).items() for word in pair]
    client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    add: Any = client.register_script(_ADD)
    for start in range(0, entries, 5000):
        add(keys=[stream], args=[min(5000, entries - start), *words])
    for _ in range(entries // 4000):
        read: Any = client.xreadgroup(GROUP, "gpu-0", {stream: ">"}, count=1000)
        client.xack(stream, GROUP, *[entry_id for entry_id, _ in read[0][1][100:]])


def _beat(pipe: Any, keys: Keys, name: str, now: float) -> None:
    told = WorkerReport(
        seen_at=now, started_at=now, process=f"host-{name}-0123456789", state="serving", engine="vllm", model="qwen",
        partitions=keys.partitions, lease_s=30.0, heartbeat_s=60.0, policy_version=17, newest_version=17,
        running_groups=32, running_sequences=256, max_sequences=256, tokens_per_s=20_000.0, waiting_groups=8,
        held_jobs=5, groups_published=10_000, tokens_generated=10**9,
    )  # fmt: skip
    pipe.hset(keys.worker(name), mapping=told.fields())
    pipe.expire(keys.worker(name), 180)
    pipe.zadd(keys.workers(), {name: now})


def _sums() -> Iterator[tuple[str, int]]:
    yield from ((name, 1000) for name in (HistoryField.GROUPS, HistoryField.SEQUENCES, HistoryField.TOKENS))
    yield from ((HistoryField.staleness(versions), 100) for versions in range(8))
    yield from ((HistoryField.error(code), 3) for code in ("too_stale", "run_deadline"))


def _batch(pipe: Any, keys: Keys, number: int, submitted_at: float, *, is_done: bool) -> None:
    name, groups = f"batch-{number}", 64
    told = {LedgerField.GROUPS: groups, LedgerField.DONE: groups if is_done else 5}
    winners = {LedgerField.group(group): "1700000000000-0|gpu-1|1" for group in range(told[LedgerField.DONE])}
    pipe.hset(keys.ledger(name), mapping={**told, **winners})
    pipe.expire(keys.ledger(name), _KEPT_S)
    pipe.zadd(keys.batches(keys.partition(name)), {name: submitted_at})


def _letter(policy: str) -> bytes:
    return encode(
        DeadLetter(
            policy=policy, entry_id=str(EntryId(1_700_000_000_000)), fields=(), error="DataError: given up",
            traceback="x" * 8000, deliveries=3, worker="gpu-1", delivered_at=1.7e9, buried_at=1.7e9,
        )
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What readings of one queue took."""

    first: Fleet
    readings: list[Fleet]
    work: Work
    reader_cpu_s: float

    def details(self) -> dict[str, Any]:
        """Figures for the report; those of one reading are means."""
        count = len(self.readings)
        calls = sorted(self.work.commands.items(), key=lambda item: -item[1][1])
        return {
            "commands": self.readings[-1].commands,
            "first_commands": self.first.commands,
            "first_ms": round(1000 * self.first.took_s, 1),
            "redis_cpu_ms": round(1000 * self.work.cpu_s / count, 2),
            "reader_cpu_ms": round(1000 * self.reader_cpu_s / count, 2),
            "kib_from_redis": round(self.work.bytes_out / count / 1024, 1),
            "redis_us_by_command": {name: round(us / count, 1) for name, (_, us) in calls if us / count > 1},
        }


async def readings_of(client: redis.Redis, url: str, keys: Keys, count: int) -> Cost:
    """Read the queue once, and then so many times."""
    connection = Connection(access=url, reconnect_s=5)
    reader = FleetReader(connection=connection, keys=keys)
    try:
        first = await reader.read()
        for _ in range(3):  # older batches are looked at bit by bit
            await reader.read()
        before, began, cpu_s = look(client), time.monotonic(), time.process_time()
        found = [await reader.read() for _ in range(count)]
        cpu_s = time.process_time() - cpu_s
        work = between(before, look(client), time.monotonic() - began)
    finally:
        await connection.aclose()
    return Cost(first=first, readings=found, work=work, reader_cpu_s=cpu_s)


def measure(amount: Amount, count: int) -> Scenario:
    """The same policy's queue, empty and full."""
    keys = Keys("observed", partitions=amount.partitions)
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        empty = asyncio.run(readings_of(client, server.url, keys, count))
        fill(client, keys, amount)
        full = asyncio.run(readings_of(client, server.url, keys, count))
    runs = {name: [1000 * one.took_s for one in cost.readings] for name, cost in (("empty", empty), ("full", full))}
    about = f"one reading, {amount.partitions} partitions; full: {amount.entries:,} entries, {amount.workers} workers"
    return Scenario("reading", about, "ms", "empty", runs, {"empty": empty.details(), "full": full.details()})


def main() -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.observe", description=__doc__)
    parser.add_argument("--entries", type=int, default=Amount.entries, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=Amount.workers, help="(%(default)s)")
    parser.add_argument("--batches", type=int, default=Amount.batches, help="(%(default)s)")
    parser.add_argument("--partitions", type=int, default=Amount.partitions, help="(%(default)s)")
    parser.add_argument("--count", type=int, default=60, help="readings of each queue (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "observe.json")
    arguments = parser.parse_args()
    amount = Amount(
        entries=arguments.entries,
        workers=arguments.workers,
        batches=arguments.batches,
        partitions=arguments.partitions,
    )
    scenario = measure(amount, arguments.count)
    found = Report("reading the fleet", [scenario])
    report.write(arguments.out, [found])
    sys.stdout.write(f"{found.table()}\n")
    for name, details in scenario.details.items():
        longest = statistics.quantiles(scenario.runs[name], n=20)[-1]
        sys.stdout.write(f"{name}: p95 {longest:.1f} ms, {details}\n")
    sys.stdout.write(f"written to {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
