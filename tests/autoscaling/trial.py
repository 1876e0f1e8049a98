"""One day of the trial: a submitter, pods, and who decides how many there are, on a real Redis; then the audit."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rollstream import AsyncClient, BatchHandle, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent, free_port
from rollstream.producer.errors import ProducerError
from rollstream.schemas import GroupResult, Sealed
from tests.autoscaling.day import HOURS, PLACES, TOKENS_PER_S, Arrival, Day
from tests.autoscaling.pods import DRAINED, EARLY, KILLED, Pods
from tests.autoscaling.rules import Autoscaler, Rules
from tests.support.faults import Queue

POLICY = "day"
LOOK_S = 0.2
"""Real seconds between two decisions, about a minute of the day."""
LEASE_S = 2.0
MEASURED_S = 0.5
"""Real seconds of work after which a worker tells its speed; a worker of the real world takes a minute."""
LAST_S = 60
_LOG_TAIL = 3000
"""The longest that a batch may take, in real seconds."""
Show = Callable[[float, str], None]
"""Shows the hour of the day and what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen and decided at one moment."""

    hour: float
    worker_s: float | None
    """Seconds of the day in which one worker does what is queued; None: the exporter did not say."""
    speed: float
    """Measured tokens a second of one worker."""
    serving: int
    """Workers that the exporter counts."""
    alive: int
    """Processes, those that start or drain included."""
    wanted: int


@dataclass
class Outcome:
    """What became of a day. Times are seconds of the day, not real ones, but for `real_s`."""

    looks: list[Look] = field(default_factory=list)
    waits: dict[str, float] = field(default_factory=dict)
    """From a batch's submit until its last group was there."""
    gpu_s: float = 0.0
    started: int = 0
    killed: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    groups: int = 0
    redelivered: int = 0
    problems: list[str] = field(default_factory=list)
    """A line for each thing lost, doubled, still pending or unexpected."""
    real_s: float = 0.0

    @property
    def p50(self) -> float:
        return percentile(self.waits.values(), 0.5)

    @property
    def p95(self) -> float:
        return percentile(self.waits.values(), 0.95)

    @property
    def most(self) -> int:
        """The most workers that there were."""
        return max((look.alive for look in self.looks), default=0)

    @property
    def zeros(self) -> int:
        """How often the last worker was stopped."""
        return sum(before.wanted > 0 == after.wanted for before, after in pairwise(self.looks))

    @property
    def turns(self) -> int:
        """How often the number of wanted workers turned from rising to falling or back."""
        changes = [after.wanted - before.wanted for before, after in pairwise(self.looks)]
        signs = [change > 0 for change in changes if change]
        return sum(before != after for before, after in pairwise(signs))


def percentile(values: Any, share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else 0.0


def run_day(
    day: Day,
    seconds: float,
    rules: Rules,
    *,
    fixed: int | None,
    seed: int,
    lease_s: float = LEASE_S,
    show: Show = lambda _hour, _told: None,
) -> Outcome:
    """The day in so many real seconds. `fixed`: so many workers all day, which nobody scales."""
    outcome, scale = Outcome(), HOURS * 3600 / seconds
    flags = [
        "--engine", "stub", "--stub-vocab-size", "1000", "--stub-tokens-per-s", str(TOKENS_PER_S), "--max-num-seqs",
        str(PLACES), "--lease-s", str(lease_s), "--grace-s", "5", "--max-interruptions", "100",
    ]  # fmt: skip
    with (
        EmbeddedRedis() as server,
        Queue(server.url, POLICY) as queue,
        Pods(server.url, POLICY, flags, seed, MEASURED_S) as pods,
        exporting(server.url) as port,
    ):
        if fixed is not None:
            pods.scale(fixed)
            _until_serving(port, fixed)
        began = time.monotonic()
        with Submitter(server.url, day, seconds) as submitter:
            _follow(
                day, seconds, port, pods, None if fixed is not None else Autoscaler(rules), outcome, submitter, show
            )
        pods.drain()
        outcome.real_s = time.monotonic() - began
        outcome.gpu_s = pods.spent_s * scale
        outcome.started, outcome.exits = pods.started, pods.exits
        outcome.waits = {name: wait * scale for name, wait in submitter.waits.items()}
        outcome.problems += [*submitter.problems, *_strange(pods, outcome)]
        audit(queue, day, outcome)
    return outcome


def _follow(
    day: Day, seconds: float, port: int, pods: Pods, scaler: Autoscaler | None, outcome: Outcome,
    submitter: Submitter, show: Show,
) -> None:  # fmt: skip
    """Look and decide until the day is over, all batches are answered and, if somebody scales, no worker is left."""
    interruptions = list(day.interruptions)
    began = time.monotonic()
    while True:
        hour = (time.monotonic() - began) / seconds * HOURS
        if hour >= HOURS and submitter.is_done and (scaler is None or not pods.wanted):
            return
        if interruptions and hour >= interruptions[0] and pods.interrupt():
            interruptions.pop(0)
            outcome.killed += 1
        outcome.looks.append(_look(hour, seconds, port, pods, scaler))
        show(hour, f"{pods.wanted} workers, {len(submitter.waits)} of {len(day.arrivals)} batches answered")
        time.sleep(max(0.0, LOOK_S - (time.monotonic() - began) % LOOK_S))


def _look(hour: float, seconds: float, port: int, pods: Pods, scaler: Autoscaler | None) -> Look:
    pods.tend()
    told, scale = backlog(port), HOURS * 3600 / seconds
    worker_s = None if told is None else told["worker_seconds"] * scale
    if scaler is not None:
        pods.scale(scaler.step(hour * 3600, worker_s, pods.wanted))
    known = told or {}
    return Look(
        hour=hour,
        worker_s=worker_s,
        speed=known.get("tokens_per_second_per_worker", 0.0),
        serving=known.get("workers", 0),
        alive=pods.alive,
        wanted=pods.wanted,
    )


def backlog(port: int) -> dict[str, Any] | None:
    """What KEDA's metrics-api scaler would read; None where it would not get a number."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        asked.request("GET", "/backlog")
        answer = asked.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        asked.close()
    return told if answer.status == http.client.OK else None


@contextmanager
def exporting(url: str) -> Iterator[int]:
    """An exporter that answers; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.autoscaling.exporter", url, POLICY, str(port)]
    process = subprocess.Popen(command, preexec_fn=die_with_parent())
    try:
        while backlog(port) is None:
            if process.poll() is not None:
                raise RuntimeError(f"the exporter ended with {process.returncode}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _until_serving(port: int, count: int) -> None:
    until = time.monotonic() + LAST_S
    while (told := backlog(port)) is None or told["workers"] < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{told} instead of {count} workers")
        time.sleep(0.05)


class Submitter:
    """Submits each batch at its hour and reads it, in a thread of its own. Use as `with`; ends once all were read."""

    def __init__(self, url: str, day: Day, seconds: float) -> None:
        self._url, self._day, self._seconds = url, day, seconds
        self._thread = threading.Thread(target=self._work, name="submitter", daemon=True)
        self.waits: dict[str, float] = {}
        """Real seconds from submit to the last group, by batch."""
        self.problems: list[str] = []

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> Submitter:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(LAST_S)

    def _work(self) -> None:
        try:
            asyncio.run(self._submit_all())
        except Exception as error:  # noqa: BLE001 - the trial goes on and tells it at its end
            self.problems.append(f"the submitter ended: {error!r}")

    async def _submit_all(self) -> None:
        began = time.monotonic()
        async with AsyncClient(self._url, policy=POLICY) as client, asyncio.TaskGroup() as readers:
            for arrival in self._day.arrivals:
                await asyncio.sleep(began + arrival.hour / HOURS * self._seconds - time.monotonic())
                readers.create_task(self._ask(client, arrival))

    async def _ask(self, client: AsyncClient, arrival: Arrival) -> None:
        config = GenerationConfig(
            max_new_tokens=arrival.tokens, num_return_sequences=self._day.samples, ignore_eos=True, seed=1
        )
        prompts = [[5 + row] for row in range(self._day.groups)]
        at = time.monotonic()
        try:
            handle: BatchHandle = await client.submit(
                prompts, None, config, batch_id=arrival.batch_id, prompts_per_job=1
            )
            await handle.wait(timeout=LAST_S)
        except ProducerError as error:
            self.problems.append(f"{arrival.batch_id}: {error}")
        else:
            self.waits[arrival.batch_id] = time.monotonic() - at


def _strange(pods: Pods, outcome: Outcome) -> Iterator[str]:
    """Workers that ended otherwise than drained, or killed by us."""
    for code, log in pods.ended:
        if code not in (DRAINED, EARLY, KILLED):
            yield f"a worker ended with {code}: {log[-_LOG_TAIL:]}"
    if pods.exits[KILLED] != outcome.killed:
        yield f"{pods.exits[KILLED]} workers were killed, {outcome.killed} of them by the trial"


def audit(queue: Queue, day: Day, outcome: Outcome) -> None:
    """Each group of each batch has one result, the seal comes last, and nothing is pending."""
    for arrival in day.arrivals:
        records = queue.answers(arrival.batch_id)
        results = [record for record in records if isinstance(record, GroupResult)]
        groups = sorted(result.group for result in results)
        outcome.groups += len(results)
        outcome.redelivered += sum(result.delivery > 1 for result in results)
        if groups != list(range(day.groups)) or not isinstance(records[-1], Sealed) or len(records) != day.groups + 1:
            outcome.problems.append(f"{arrival.batch_id}: {len(records)} records, groups {groups}")
    outcome.problems += [f"{entry} is held by {holder}" for entry, holder in queue.holders().items()]
