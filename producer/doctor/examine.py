"""`rollstream doctor`: read a policy's queue once, then judge what was read. `diagnose` is pure."""

from __future__ import annotations

from rollstream.schemas import Keys
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..errors import RedisUnavailableError
from .finding import Finding
from .probe import probe
from .queue_checks import queue_findings
from .redis_checks import redis_findings, unreachable
from .seen import Probe


def diagnose(found: Probe) -> list[Finding]:
    """The findings of all checks; each check gives at least one. Only an operator may read all of the queue."""
    return [*redis_findings(found), *(queue_findings(found) if found.role is Role.OPERATOR else ())]


async def examine(
    redis: RedisAccess | str, keys: Keys, lease_s: float | None = None, role: Role = Role.OPERATOR
) -> list[Finding]:
    """Read the queue and judge it. `lease_s`: the workers' lease in seconds; None: the one that they agreed on.
    `role`: whose rights the user of this URL should have.

    Never writes. A Redis that cannot be reached is a finding too.
    """
    try:
        return diagnose(await probe(redis, keys, lease_s, role))
    except RedisUnavailableError as error:
        return [unreachable(error)]
