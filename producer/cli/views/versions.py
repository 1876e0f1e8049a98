"""Policy versions in a table, with the workers that serve them, and why some are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from rollstream.schemas import PolicyVersion

from ...operations.queue_state import age
from ...policies.versions_stream import Announced
from ...policies.wait_for_version import Serving
from .fit import Cell, Column, Lines, table, wrapped
from .headline import listed, many

_LATEST_S = 1e11
"""Unix seconds. A later time, infinity or NaN in an announcement is no time and is shown as `?`."""
_MOST_NAMES = 6
_COLUMNS = (
    Column(title="version", right=True, said="version {}"),
    Column(title="state", said="{}"),
    Column(title="source", said="{}"),
    Column(title="location", least=20, said="{}"),
    Column(title="sha256", rank=1),
    Column(title="published", right=True, said="published {}"),
    Column(title="served by", words=True, said="served by {}"),
)


def version_lines(
    policy: str, announced: Sequence[Announced], serving: Mapping[str, Serving], active: int, width: int
) -> Lines:
    """The newest version first; 0 is shown where a worker still serves its boot model. Then what needs a sentence.

    `active`: the version to serve.
    """
    lines = wrapped(Text(f"policy {policy}: {many(len(serving), 'live worker')}", style="bold"), width)
    rows = [_cells(one, active, _served_by(one.version, serving)) for one in announced]
    shown = {one.version for one in announced}
    for version in sorted({one.version for one in serving.values()} - shown, reverse=True):
        source = "booted with" if version == 0 else "unknown"
        number = str(version) if version >= 0 else "?"
        rows.append([number, "", source, "", "", "", _served_by(version, serving)])
    lines += table(_COLUMNS, rows, width).lines()
    for told in (*_of_versions(announced, serving, active), *_of_workers(serving)):
        lines += wrapped(told, width, indent=2)
    return lines


def _of_versions(announced: Sequence[Announced], serving: Mapping[str, Serving], active: int) -> Iterator[str]:
    for one in announced:
        if one.announcement is not None and one.problem:
            yield f"version {one.version}: {one.problem}"
        if one.version > active and one.announcement is not None:
            ready = sum(worker.prepared >= one.version for worker in serving.values())
            yield f"version {one.version}: {_waits(one.announcement)}; prepared by {ready} of {len(serving)} workers"
        if one.version == active and one.announcement is not None and one.announcement.probe is not None:
            proofs = [worker.proof for worker in serving.values() if worker.version == active and worker.proof]
            example = f", the first: {proofs[0]}" if proofs else ""
            yield f"version {active}: proven by {len(proofs)} of {len(serving)} workers{example}"


def _of_workers(serving: Mapping[str, Serving]) -> Iterator[str]:
    for name, worker in serving.items():
        if worker.problem:
            yield f"{name} serves {worker.version}, refused {worker.newest}: {worker.problem}"


def _waits(announcement: PolicyVersion) -> str:
    """What makes an announced version the one to serve."""
    terms = announcement.activate
    if terms.when != "when_prepared":
        return f"announced, waits for `rollstream activate {announcement.version}`"
    late = "" if terms.timeout_s is None else f" or {terms.timeout_s:g} s after its announcement"
    return f"announced, to be served once {terms.share:.0%} of the workers have prepared it{late}"


def _served_by(version: int, serving: Mapping[str, Serving]) -> str:
    names = [name for name, one in serving.items() if one.version == version]
    return listed(names, _MOST_NAMES) if names else "-"


def _cells(one: Announced, active: int, served_by: str) -> list[Cell]:
    found = one.announcement
    state = "to serve" if one.version == active else "announced" if one.version > active else ""
    if found is None:
        return [str(one.version), state, "unreadable", one.problem, "", "", served_by]
    sane = 0 <= found.published_at <= _LATEST_S
    ago = f"{age(max(0.0, time.time() - found.published_at))} ago" if sane else "?"
    return [str(one.version), state, found.source, found.location, found.sha256[:12], ago, served_by]
