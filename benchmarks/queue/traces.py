"""What traces cost the queue: CPU seconds for 1,000 groups with no-op completions, with spans and without, in turns.

Each run has new processes: a trainer and stub workers, whose spans go to a collector on loopback that only keeps them.
The stub generates at once, so this is the dearest case: a span costs the same, whatever a completion takes. Beside it:
what a span costs where traces are off (ns) and where they are on (us), in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.arms import Arm, arms
from benchmarks.queue.alone import Bench
from benchmarks.support import report
from benchmarks.support.otlp_sink import count, running_sink
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Envelope
from rollstream.schemas.entry_id import EntryId
from rollstream.transport.traces.application import traces_of
from rollstream.transport.traces.library import tracer
from rollstream.transport.traces.names import Outcome, SpanName
from rollstream.transport.traces.spans import NO_TRACER, Tracer
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.jobs.deadlines import RedisClock
from rollstream.worker.jobs.job_trace import JobTraces

ROUNDS = 500
"""Few enough for OpenTelemetry's queue of 2,048 spans."""
OFF, ON, SAMPLED = "off", "on", "1 of 100"
_CPU = {"workers, ms of CPU a drained job": "workers", "client, ms of CPU a job": "trainer"}
"""Milliseconds for a prompt, which is a group, are seconds for 1,000."""


def chosen_arms(url: str, concurrency: int) -> list[Arm]:
    """Eight prompts a job and 256 a batch, as in `benchmarks.queue.alone`."""
    base = arms(concurrency, 256)["rollstream x8"]
    on = {**base.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    return [
        replace(base, name=OFF),
        replace(base, name=ON, environment=on),
        replace(base, name=SAMPLED, environment={**on, **sampler}),
    ]


def measure(bench: Bench, url: str, jobs: int, workers: int, repeats: int) -> list[Scenario]:
    """Run all arms in turns."""
    found = {
        name: Scenario(f"{name}, {workers} workers", "CPU for 1,000 groups", "s", OFF, {}) for name in _CPU.values()
    }
    drain = Scenario(f"drain, {workers} workers", f"{jobs} groups", "groups/s", OFF, {})
    spans: dict[str, list[int]] = {}
    for number in range(repeats):
        for arm in chosen_arms(url, bench.concurrency):
            result = bench.run(arm, jobs, workers)
            for name, value in result.items():
                if name in _CPU:
                    found[_CPU[name]].runs.setdefault(arm.name, []).append(value)
            drain.runs.setdefault(arm.name, []).append(result["drain"])
            spans.setdefault(arm.name, []).append(count(url))
        sys.stderr.write(f"round {number + 1} of {repeats}: {spans}\n")
    for scenario in (*found.values(), drain):
        scenario.details = {"spans": spans, "paired": {arm: _paired(scenario, arm) for arm in (ON, SAMPLED)}}
    return [*found.values(), drain]


def _paired(scenario: Scenario, arm: str) -> dict[str, float]:
    """The mean difference of the pairs, with twice its standard error."""
    pairs = [one - other for one, other in zip(scenario.runs[arm], scenario.runs[OFF], strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
    return {"difference": statistics.mean(pairs), "plus_or_minus": 2 * error}


def spans_alone(tracers: Mapping[str, Tracer], rounds: int) -> Scenario:
    """What the spans of a group and of a job cost in one process, in nanoseconds."""
    scenario = Scenario("spans alone", "one process", "ns", OFF, {})
    for name, one in tracers.items():
        for what, call in _calls(one).items():
            began = time.thread_time_ns()  # of the caller alone, as that of an event loop; the exporter has another
            for _ in range(rounds):
                call()
            took = (time.thread_time_ns() - began) / rounds
            scenario.details[f"{what}, {name}"] = round(took)
            scenario.runs.setdefault(name, []).append(took)
    return scenario


def _calls(tracer_used: Tracer) -> dict[str, Callable[[], None]]:
    traces = JobTraces(tracer=tracer_used, policy="p", clock=RedisClock())
    ends_at, entry = time.monotonic() + 1000, str(EntryId(1))
    lease = Lease(jobs_key="j", dead_key="d", entry_id=entry, consumer="w", delivery=1, ends_at=ends_at)
    fields = Envelope(batch_id="b", job=0, first_group=0, job_groups=1, num_groups=1).fields(b"")
    kept = traces.begin(lease, fields)

    def group() -> None:
        with kept.group(SpanName.GENERATE, 1):
            pass
        with kept.group(SpanName.PUBLISH, 1):
            pass

    def job() -> None:
        with traces.begin(lease, fields) as trace:
            trace.prepared(None, 0)
            trace.ending(Outcome.ANSWERED)

    def submit() -> None:
        (tracer() if tracer_used is NO_TRACER else tracer_used).start(SpanName.SUBMIT).end()

    return {"a group's two spans": group, "a job's three spans": job, "a submit's span": submit}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queue.traces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=8000, help="groups of a run, a multiple of 8 (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=32, help="groups at once of a worker (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each arm (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-bench-")))
        server, url = stack.enter_context(EmbeddedRedis()), stack.enter_context(running_sink())
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url  # the SDK reads it from here
        on = traces_of(os.environ, service="spans-alone", tell=sys.stderr.write)
        alone = spans_alone({OFF: NO_TRACER, ON: on.tracer}, ROUNDS)
        on.close()
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        count(url)
        bench = Bench(server, folder, folder, arguments.concurrency)
        scenarios = measure(bench, url, arguments.jobs, arguments.workers, arguments.repeats)
    settings = {name: getattr(arguments, name) for name in ("jobs", "workers", "concurrency")}
    for scenario in (alone, *scenarios):
        sys.stdout.write(f"{scenario.name}: {scenario.details}\n")
    report.finish(Report("traces", [alone, *scenarios], settings), arguments.out)


if __name__ == "__main__":
    main()
