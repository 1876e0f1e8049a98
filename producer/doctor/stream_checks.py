"""The doctor's checks of entry ids: those ahead of the clock, and those after which no entry can come. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations.queue_state import age
from .finding import FAIL, WARN, Finding, some
from .seen import Probe

_LONGEST_S = 1e9


def stream_findings(found: Probe) -> Iterator[Finding]:
    """A finding for each fault; producers and workers cause none of them themselves."""
    if ended := [stream for seen in found.partitions for stream in seen.ended]:
        yield Finding(
            check="last id",
            level=FAIL,
            seen=f"{some(ended)}: something else wrote the last possible id, Redis takes no entry after it",
            remedy="jobs: wait until they are finished (rollstream status), then DEL the stream and submit again; dead "
            "letters: rollstream dead requeue or drop, then DEL the stream",
        )
    if found.no_version:
        yield Finding(
            check="versions",
            level=FAIL,
            seen=f"entry {found.no_version} of the versions stream is no version, and none can be published after it",
            remedy="XDEL does not help, since Redis keeps the id: DEL the stream and publish the newest weights again",
        )
    ahead = {seen.queue.partition: seen.queue.ids_ahead_s for seen in found.partitions if seen.queue.ids_ahead_s}
    if ahead:
        furthest = max(ahead.values())
        told = age(furthest) if furthest < _LONGEST_S else "centuries"
        yield Finding(
            check="ids",
            level=WARN,
            seen=f"the newest jobs of partition {', '.join(map(str, ahead))} are {told} ahead of Redis' clock: it was "
            "set back, or something else wrote them",
            remedy="deadlines, takeovers and retention still work; ages are unknown until the clock has caught up: "
            "replay by --batch rather than by time",
        )
