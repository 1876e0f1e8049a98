"""Refuse at submit what every live worker would refuse: more candidates than its engine was started for."""

from __future__ import annotations

from functools import partial

from rollstream.schemas import Keys

from ..errors import ArgumentError
from ..policies.live_workers import live_reports
from ..redis_io.connection import Connection


async def check_candidates(connection: Connection, keys: Keys, top_logprobs: int) -> None:
    """Raises `ArgumentError` if each live worker says that it can give fewer; where one does not say, it is asked.

    Raises `RedisUnavailableError`.
    """
    if not top_logprobs:
        return
    reports = await connection.call("ask the workers' limits", partial(live_reports, keys=keys))
    limits = [report.max_logprobs for report in reports.values()]
    known = [limit for limit in limits if limit is not None]
    if known and len(known) == len(limits) and max(known) < top_logprobs:
        rule = f"no live worker gives more than {max(known)}: ask for fewer, or start workers with a higher limit"
        raise ArgumentError("top_logprobs", top_logprobs, rule)
