"""Which worker serves which policy version, by the workers' reports. A dead worker counts until its report expires."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from rollstream.schemas import Activate, Keys
from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.policies import VersionSource

from ..calls.patience import Patience
from ..redis_io.connection import Connection
from .activation import newest_active
from .errors import VersionTimeoutError, VersionWaitError
from .live_workers import live_reports
from .versions_stream import RECENT, Announced, announced_versions

Workers = int | Literal["all"]
Kind = VersionSource | Literal["store"]
"""How weights are brought, as far as a worker must be started for it: a folder, an adapter, or the weight store."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_LATE_LOOK_S = 5.0
"""After so many seconds without an answer, the last look is called out of date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What one live worker reports."""

    version: int
    """The version that it serves; -1 if it does not say, which counts as behind."""
    newest: int
    """The newest version that it knows."""
    problem: str
    """Why it refused the newest version; empty if it did not."""
    draining: bool
    """It is ending: it takes no more jobs and no new versions."""
    sha256: str = ""
    """Digest of the served version; empty for the boot model, and if it does not say."""
    refused_kinds: frozenset[Kind] = frozenset()
    """The kinds of versions for which it was not started."""
    prepared: int = -1
    """The newest version that it serves or could serve at once; -1 if it does not say."""
    proof: str = ""
    """How well the served version reproduced its probe; empty if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look showed."""

    serving: Mapping[str, Serving]
    active: Announced | None = None
    """The version to serve, if there is one."""
    recent: Sequence[Announced] = ()
    """The newest announced versions, the newest first, while the one to serve is not new enough."""
    at: float | None = None
    """When the look was, by the event loop's clock; None before the first."""

    def behind(self, version: int) -> dict[str, tuple[int, str]]:
        """Workers that do not serve `version`, with the version that they serve and why they refused a newer one."""
        counted = _counted(self.serving).items()
        return {name: (one.version, one.problem) for name, one in counted if not _serves(one, self.active, version)}


async def read_serving(connection: Connection, keys: Keys) -> dict[str, Serving]:
    """Live workers by name. Raises `RedisUnavailableError`."""

    async def read(redis: Redis) -> dict[str, Serving]:
        reports = await live_reports(redis, keys)
        return {printable(name): _serving(report) for name, report in reports.items()}

    return await connection.call("read the workers", read)


async def wait_for_version(
    connection: Connection, keys: Keys, version: int, workers: Workers, timeout: float | None
) -> None:
    """See `AsyncClient.wait_for_version`."""
    _check(version, workers, timeout)
    seen = Seen(serving={})

    async def ask() -> str:
        return waits_for(seen, version, workers)

    async def look_until_served() -> None:
        nonlocal seen
        pause = _FIRST_PAUSE_S
        while True:
            serving = await read_serving(connection, keys)
            # Read after the reports, so that no report is ahead of the streams unless they were replaced.
            active = await newest_active(connection, keys)
            waits = active is None or active.version < version
            recent = await announced_versions(connection, keys, RECENT) if waits else []
            seen = Seen(serving=serving, active=active, recent=recent, at=asyncio.get_running_loop().time())
            if served(seen.serving, seen.active, version, workers):
                return
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE_S)

    async with Patience(what=f"policy version {version}", ask=ask, timeout=timeout):
        try:
            async with asyncio.timeout(timeout):
                await look_until_served()
        except TimeoutError:
            counted = _counted(seen.serving)
            behind = seen.behind(version)
            there = len(counted) - len(behind)
            told = waits_for(seen, version, workers)
            raise VersionTimeoutError(version, workers, there, behind, timeout or 0, told) from None


def waits_for(seen: Seen, version: int, workers: Workers) -> str:
    """What a wait for `version` waits for, according to its last look."""
    if seen.at is None or asyncio.get_running_loop().time() - seen.at > _LATE_LOOK_S:
        return "Redis does not answer" + ("" if seen.at is None else "; before, " + _waits_for(seen, version, workers))
    return _waits_for(seen, version, workers)


def _waits_for(seen: Seen, version: int, workers: Workers) -> str:
    live, behind = len(_counted(seen.serving)), seen.behind(version)
    told = [f"{name} serves {served}{f', refused: {why}' if why else ''}" for name, (served, why) in behind.items()]
    listed = "".join(f"; {one}" for one in told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
    hint = listed if live else "; is one started with this policy?"
    return f"served by {live - len(behind)} of {live} live workers, {workers} wanted{hint}{_not_active(seen, version)}"


def _not_active(seen: Seen, version: int) -> str:
    """What keeps `version` from being the one to serve; empty if nothing does."""
    if version <= (0 if seen.active is None else seen.active.version):
        return ""
    pending = next((one for one in reversed(seen.recent) if one.version >= version), None)
    if pending is None:
        end = seen.recent[0].version if seen.recent else 0
        return f"; nobody has published it, the newest is {end}"
    name = "it" if pending.version == version else f"version {pending.version}"
    terms = Activate() if pending.announcement is None else pending.announcement.activate
    if terms.when == "at_once":  # announced since the look at what is active
        return ""
    if terms.when == "by_hand":
        number = pending.version
        return f"; {name} is announced and waits for client.activate({number}) or `rollstream activate {number}`"
    live = _counted(seen.serving).values()
    ready = sum(one.prepared >= pending.version for one in live)
    late = "" if terms.timeout_s is None else f", or {terms.timeout_s:g} s after its announcement"
    return (
        f"; {name} is announced and becomes active once {terms.share:.0%} of the live workers have prepared it, "
        f"{ready} of {len(live)} have{late}"
    )


def served(serving: Mapping[str, Serving], active: Announced | None, version: int, workers: Workers) -> bool:
    """Whether enough workers serve `version` or a newer one; draining ones do not count, "all" needs at least one.

    `active`: the version to serve. A worker that serves a later version, or other content under that number, does not
    count: its version came from streams that are gone.
    """
    counted = _counted(serving).values()
    there = sum(_serves(one, active, version) for one in counted)
    return there >= max(1, len(counted)) if workers == "all" else there >= workers


def _serves(one: Serving, active: Announced | None, version: int) -> bool:
    end = 0 if active is None else active.version
    announcement = active.announcement if active is not None and one.version == end else None
    other = announcement is not None and one.sha256 not in ("", announcement.sha256)
    return version <= one.version <= end and not other


def _counted(serving: Mapping[str, Serving]) -> dict[str, Serving]:
    return {name: one for name, one in serving.items() if not one.draining}


def _check(version: object, workers: object, timeout: object) -> None:
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise VersionWaitError("version", version, f"give an integer from 0 to {MAX_VERSION}")
    if workers != "all" and (type(workers) is not int or workers < 1):
        raise VersionWaitError("workers", workers, 'give a number from 1 on, or "all"')
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise VersionWaitError("timeout", timeout, "give seconds from 0 on, or None to wait for ever")


def _serving(report: WorkerReport) -> Serving:
    taken: dict[Kind, bool | None] = {
        "checkpoint": report.takes_checkpoints,
        "adapter": report.takes_adapters,
        "store": report.takes_store,
    }
    return Serving(
        version=_known(report.policy_version),
        newest=_known(report.newest_version),
        problem=report.policy_error,
        draining=report.state == WorkerState.DRAINING,
        sha256=report.policy_sha256,
        refused_kinds=frozenset(kind for kind, is_taken in taken.items() if is_taken is False),
        prepared=_known(report.prepared_version),
        proof=report.policy_proof,
    )


def _known(version: int | None) -> int:
    return -1 if version is None else version
