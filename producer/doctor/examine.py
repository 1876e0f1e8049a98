"""`rollstream doctor`: read a policy's queue once, then judge what was read. `diagnose` is pure."""

from __future__ import annotations

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess

from ..errors import RedisUnavailableError
from .finding import Finding
from .probe import Probe, probe
from .queue_checks import queue_findings
from .redis_checks import redis_findings, unreachable


def diagnose(found: Probe) -> list[Finding]:
    """The findings of all checks; each check gives at least one."""
    return [*redis_findings(found), *queue_findings(found)]


async def examine(redis: RedisAccess | str, keys: Keys, lease_s: float | None = None) -> list[Finding]:
    """Read the queue and judge it. `lease_s`: the workers' lease in seconds; None: the one that they agreed on.

    Never writes. A Redis that cannot be reached is a finding too.
    """
    try:
        return diagnose(await probe(redis, keys, lease_s))
    except RedisUnavailableError as error:
        return [unreachable(error)]
