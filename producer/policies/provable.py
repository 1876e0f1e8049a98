"""Whether the workers could score a probe at all, asked before its version is announced."""

from __future__ import annotations

from rollstream.schemas import Keys, Probe
from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState
from rollstream.schemas.printable import printable

from ..probes.errors import ProbeError
from ..redis_io.connection import Connection
from .live_workers import live_reports


async def check_provable(connection: Connection, keys: Keys, probe: Probe | None) -> None:
    """Raises `ProbeError` for a probe that a live worker could never prove a version by, whatever its weights are.

    A worker that does not say what it can score yet, or is ending, is no reason. Raises `RedisUnavailableError`.
    """
    if probe is None:
        return
    reports = await connection.call("read the workers", lambda redis: live_reports(redis, keys))
    for name, report in reports.items():
        if report.state != WorkerState.DRAINING and (problem := _problem(probe, report)):
            raise ProbeError(f"{problem.format(worker=f'worker {printable(name)}')}")


def _problem(probe: Probe, report: WorkerReport) -> str:
    if report.vocab_size is not None and report.vocab_size != probe.vocab_size:
        told = f"it is of a vocabulary of {probe.vocab_size} ids, and {{worker}} has a model of {report.vocab_size}"
        return f"{told}: make it with the model that is published"
    longest = int(probe.row_lengths.numpy().max())
    if report.max_model_len is not None and longest > report.max_model_len:
        most = report.max_model_len
        told = f"it has a row of {longest} ids, and {{worker}} scores rows of at most {most} (--max-model-len)"
        return f"{told}: make it with row_tokens={most} or fewer"
    return ""
