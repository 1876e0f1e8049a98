"""Which workers answered, as one: alike in everything that decides what they sample, and under one version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rollstream.schemas import GroupResult, Keys
from rollstream.schemas.golden.origin import made_with
from rollstream.schemas.hashes.worker_report import WorkerReport

from ..errors import GoldenRefusedError
from ..policies.live_workers import live_reports
from ..redis_io.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the answers came from."""

    model: str
    engine: str
    runs_on: str
    dtype: str
    vocab_size: int
    policy_version: int
    policy_sha256: str
    """Empty for version 0."""
    workers: tuple[str, ...]

    def __str__(self) -> str:
        return made_with(self.runs_on, self.dtype)


async def reports_of(connection: Connection, keys: Keys) -> dict[str, WorkerReport]:
    """The reports of live workers that have loaded their model; at least one. Raises `GoldenRefusedError`."""
    found = await connection.call("read the workers", lambda client: live_reports(client, keys))
    if not found:
        raise GoldenRefusedError(f"policy {keys.policy} has no live worker: start one and try again")
    ready = {name: report for name, report in found.items() if report.vocab_size and report.dtype}
    if not ready:
        problem = f"{', '.join(found)} did not say what they run: they still load, or are of an older release"
        raise GoldenRefusedError(f"policy {keys.policy}: {problem}")
    return ready


def vocabulary_of(reports: Mapping[str, WorkerReport]) -> int:
    """How many ids the workers' model knows. Raises `GoldenRefusedError` if they differ."""
    sizes = {report.vocab_size or 0 for report in reports.values()}
    if len(sizes) > 1:
        raise GoldenRefusedError(f"the live workers have vocabularies of {sorted(sizes)} ids: serve one model alone")
    return sizes.pop()


def origin_of(answers: Iterable[GroupResult], reports: Mapping[str, WorkerReport]) -> Origin:
    """Where `answers` came from. Raises `GoldenRefusedError` where that is not one thing."""
    results = list(answers)
    names = sorted({answer.worker for answer in results})
    if gone := [name for name in names if name not in reports]:
        raise GoldenRefusedError(f"{', '.join(gone)} answered and ended: try again")
    version = _one_version(results)
    if moved := [name for name in names if reports[name].policy_version != version]:
        raise GoldenRefusedError(f"{', '.join(moved)} went on from version {version} meanwhile: try again")
    kinds = {_kind(reports[name]): name for name in names}
    if len(kinds) > 1:
        each = "; ".join(f"{name}: {', '.join(map(str, kind))}" for kind, name in kinds.items())
        raise GoldenRefusedError(f"unlike workers answered ({each}): leave workers of one kind alone and try again")
    model, engine, runs_on, dtype, vocab_size, sha256 = _kind(reports[names[0]])
    return Origin(
        model=model,
        engine=engine,
        runs_on=runs_on,
        dtype=dtype,
        vocab_size=vocab_size,
        policy_version=version,
        policy_sha256=sha256,
        workers=tuple(names),
    )


def _one_version(results: Iterable[GroupResult]) -> int:
    spans = {version for result in results for spans in result.version_spans for version, _ in spans}
    if len(spans) != 1 or not all(result.spans_exact for result in results):
        seen = ", ".join(map(str, sorted(spans))) or "none"
        raise GoldenRefusedError(f"the jobs were sampled by more than one policy version ({seen}): try again")
    return spans.pop()


def _kind(report: WorkerReport) -> tuple[str, str, str, str, int, str]:
    sha256 = report.policy_sha256 if report.policy_version else ""
    return report.model, report.engine, report.runs_on, report.dtype, report.vocab_size or 0, sha256
