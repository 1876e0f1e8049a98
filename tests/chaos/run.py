"""`make chaos`: a queue under every fault we know, by a seed, then an audit that finds what was lost or doubled."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.chaos.audit import Findings, Undisturbed, audit_all
from tests.chaos.fleet import EXPECTED_EXITS, Fleet
from tests.chaos.plan import POISON, VOCABULARY, Plan, make_plan
from tests.chaos.report import print_report, summary
from tests.chaos.trainer import Publish, training
from tests.support.faults import Queue

TICK_S = 0.05
STALLED_S = 60
"""Without any answer for this long, with no fault left, nothing more is waited for: the audit says what is missing."""
BACKLOG_JOBS = 400
"""The producer submits the next batch once fewer groups than this are unanswered."""
TOKENS_PER_S = 60
AT_ONCE = 8
MAX_DELIVERIES = 6
"""Under so many faults innocent jobs are delivered again and again, and must not be given up on."""

CONVERGED_S = 20
"""How long, at most, workers take to serve the last version once nothing else happens."""

Show = Callable[[int], None]


@dataclass
class Pass:
    """One run of the plan, and the audit after it."""

    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)
    struck: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    lost_replies: int = 0
    fenced: int = 0
    taken_over: int = 0
    logs: list[str] = field(default_factory=list)

    @property
    def strange_exits(self) -> int:
        """Workers that ended with a code that chaos does not explain."""
        return sum(count for code, count in self.exits.items() if code not in EXPECTED_EXITS)

    @property
    def clean(self) -> bool:
        return self.findings.clean and not self.strange_exits


def run_pass(server: EmbeddedRedis, plan: Plan, expected: Undisturbed, show: Show, *, faults: bool) -> Pass:
    """The plan's jobs on `server`, with its faults or without any; returns once nothing more happens."""
    policy = "chaos" if faults else "calm"
    poison = ["--stub-poison-token", str(POISON)] if faults else []
    versions = tempfile.TemporaryDirectory(prefix="rollstream-chaos-")
    flags = [
        "--checkpoint-dir", versions.name, "--weights", "redis",
        "--engine", "stub", "--stub-vocab-size", str(VOCABULARY), "--lease-s", str(plan.lease_s), "--grace-s", "1",
        "--stub-tokens-per-s", str(TOKENS_PER_S), "--max-num-seqs", str(AT_ONCE),
        "--max-deliveries", str(MAX_DELIVERIES), "--max-interruptions", "100", *poison,
    ]  # fmt: skip
    outcome = Pass()
    with versions, Queue(server.url, policy) as queue, Fleet(server, policy, plan.workers, flags) as fleet:
        started = time.monotonic()
        with (
            training(fleet.producer_url, queue, Path(versions.name)) as publish,
            producing(plan, fleet.producer_url, queue),
        ):
            _follow(plan, fleet, queue, show, publish, faults=faults)
        outcome.seconds = time.monotonic() - started
        behind = _behind(plan, fleet, queue)
        fleet.drain()
        outcome.findings = audit_all(queue, plan, expected, poisoned=faults)
        for name in behind:
            outcome.findings.note("behind", name)
        outcome.struck, outcome.exits, outcome.logs = fleet.struck, fleet.exits, fleet.logs
        outcome.lost_replies = fleet.lost_replies
    outcome.fenced = sum(log.count("outcome=fenced") for log in outcome.logs)
    outcome.taken_over = sum(log.count("job taken over") for log in outcome.logs)
    return outcome


def _follow(plan: Plan, fleet: Fleet, queue: Queue, show: Show, publish: Publish, *, faults: bool) -> None:
    """Strike and publish as answers come in; return when all have come and nothing is pending, or no more come."""
    waiting = list(plan.faults) if faults else []
    unpublished = list(plan.versions)
    done, moved_at = 0, time.monotonic()
    while not (fleet.quiet and not waiting and _settled(plan, queue)):
        answered = _answered(plan, queue, done)
        if answered != done or waiting or not fleet.quiet:
            done, moved_at = answered, time.monotonic()
        show(done)
        while unpublished and done >= unpublished[0].at * plan.num_groups:
            publish(unpublished.pop(0))
        while waiting and done >= waiting[0].at * plan.num_groups:
            fleet.strike(waiting.pop(0))
        fleet.tend()
        if time.monotonic() - moved_at > STALLED_S:
            return
        time.sleep(TICK_S)


def _behind(plan: Plan, fleet: Fleet, queue: Queue) -> list[str]:
    """Workers that do not come to serve the last version, and what they say instead."""
    until = time.monotonic() + CONVERGED_S
    while True:
        fleet.tend()
        reports = _reports(queue)
        behind = [
            f"{name} serves {one.policy_version} instead of {plan.serves_last} {one.policy_error}"
            for name, one in reports.items()
            if one.policy_version != plan.serves_last
        ]
        if len(reports) != plan.workers:
            behind.append(f"{len(reports)} of {plan.workers} workers report")
        if not behind or time.monotonic() > until:
            return behind
        time.sleep(TICK_S)


def _reports(queue: Queue) -> dict[str, WorkerReport]:
    names = cast("list[bytes]", queue.redis.zrange(queue.keys.workers(), 0, -1))
    told = {
        name.decode(): cast("dict[bytes, bytes]", queue.redis.hgetall(queue.keys.worker(name.decode())))
        for name in names
    }
    return {name: WorkerReport.of(fields) for name, fields in told.items() if fields}


def _answered(plan: Plan, queue: Queue, known: int) -> int:
    """Groups with an answer; what was known while Redis is away."""
    try:
        with queue.redis.pipeline(transaction=False) as pipe:
            for batch in plan.batches:
                pipe.hget(queue.keys.ledger(batch.batch_id), "done")
            counts: list[Any] = pipe.execute()
    except redis.RedisError:
        return known
    return sum(int(count or 0) for count in counts)


def _settled(plan: Plan, queue: Queue) -> bool:
    try:
        return _answered(plan, queue, 0) >= plan.num_groups and not queue.holders()
    except redis.RedisError:
        return False


@contextlib.contextmanager
def producing(plan: Plan, url: str, queue: Queue) -> Iterator[None]:
    """A producer in a thread of its own, which keeps a backlog and pushes malformed entries behind each batch."""
    over = threading.Event()
    failed: list[BaseException] = []

    def produce() -> None:
        try:
            _produce(plan, url, queue, over)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failed.append(error)

    thread = threading.Thread(target=produce, name="producer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
    if failed:
        raise failed[0]


def _produce(plan: Plan, url: str, queue: Queue, over: threading.Event) -> None:
    submitted = 0
    with Client(url, policy=queue.keys.policy, reconnect_s=120) as client:
        for batch, malformed in zip(plan.batches, plan.malformed, strict=True):
            while submitted - _answered(plan, queue, 0) > BACKLOG_JOBS:
                if over.wait(TICK_S):
                    return
            client.submit(
                batch.prompts,
                None,
                batch.config,
                batch_id=batch.batch_id,
                prompts_per_job=batch.prompts_per_job,
                session=batch.session,
            )
            submitted += len(batch.prompts)
            for entry in malformed:
                _push(queue, entry.fields, over)


def _push(queue: Queue, fields: dict[bytes, bytes], over: threading.Event) -> None:
    """Until Redis takes it; where its reply is lost there are two entries, and each must become a dead letter."""
    entry: Any = fields
    while not over.is_set():
        try:
            queue.redis.xadd(queue.jobs_key, entry)
            return
        except redis.RedisError:
            time.sleep(TICK_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when nothing was lost, doubled or wrong, else 1."""
    options = _options(argv)
    console = Console()
    plan = make_plan(options.seed, options.jobs, options.workers, options.faults, options.lease_s, options.versions)
    console.print(str(plan), markup=False, highlight=False)
    # always: with everysec Redis holds an acknowledged write back while an fsync runs, and kill -9 would lose it
    with EmbeddedRedis(appendonly=True) as server, Undisturbed() as expected, _bars(console, plan) as bar:
        calm = run_pass(server, plan, expected, bar("without faults"), faults=False)
        chaos = run_pass(server, plan, expected, bar("with faults"), faults=True)
    print_report(console, plan, calm, chaos)
    if options.json is not None:
        options.json.write_text(json.dumps(summary(plan, calm, chaos), indent=2) + "\n")
    if calm.clean and chaos.clean:
        return 0
    _explain(console, options, [*calm.logs, *chaos.logs])
    return 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description=(
            "Run thousands of jobs on real worker processes and a real Redis, once in peace and once under faults: "
            "workers killed, stopped and drained, links frozen, cut and losing replies, Redis killed and started "
            "again, jobs that end their worker, entries that no producer wrote, and right and wrong policy "
            "versions. Then check every answer."
        ),
        epilog='make chaos ARGS="--seed 7 --jobs 3000 --workers 4". The seed decides jobs and faults, not the timing.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="decides every job and every fault")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of the plan, at least 20")
    parser.add_argument("--workers", type=int, default=4, help="worker processes on the stub engine")
    parser.add_argument("--faults", type=int, default=45, help="faults, spread over the run")
    parser.add_argument("--versions", type=int, default=21, help="policy versions, spread over the run")
    parser.add_argument("--lease-s", type=float, default=2.0, help="the workers' lease; faults outlast it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    options = parser.parse_args(argv)
    if options.jobs < 20 or options.workers < 1 or min(options.faults, options.versions) < 0:
        parser.error("--jobs is at least 20, --workers at least 1, --faults and --versions at least 0")
    return options


@contextlib.contextmanager
def _bars(console: Console, plan: Plan) -> Iterator[Callable[[str], Show]]:
    """Makes a bar on the terminal for each pass."""
    columns = (TextColumn("{task.description:15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def bar(title: str) -> Show:
            task = progress.add_task(title, total=plan.num_groups)
            return lambda done: progress.update(task, completed=done)

        yield bar


def _explain(console: Console, options: argparse.Namespace, logs: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rollstream-chaos-"))
    for number, log in enumerate(logs):
        Path(folder, f"worker-{number}.log").write_text(log)
    flags = f"--seed {options.seed} --jobs {options.jobs} --workers {options.workers} --faults {options.faults}"
    flags += f" --versions {options.versions}"
    repeat = f'make chaos ARGS="{flags} --lease-s {options.lease_s:g}"'
    console.print(f"the workers' logs are in {folder}; the same plan again: {repeat}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    logging.getLogger("rollstream").setLevel(logging.ERROR)  # workers are meant to refuse versions
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
