"""Refuse at submit what every live worker would refuse: more candidates than its engine was started for."""

from __future__ import annotations

from functools import partial

from rollstream.schemas import ConfigError, GenerationConfig, Keys
from rollstream.schemas.generation.generation_config import MAX_CANDIDATES

from ..errors import ArgumentError
from ..policies.live_workers import live_reports
from ..redis_io.connection import Connection


def check_top_logprobs(top_logprobs: object) -> int:
    """Return it. Raises `ArgumentError` for what no worker gives."""
    if type(top_logprobs) is not int or not 0 <= top_logprobs <= MAX_CANDIDATES:
        raise ArgumentError("top_logprobs", top_logprobs, f"give an integer from 0 to {MAX_CANDIDATES}")
    return top_logprobs


async def check_candidates(connection: Connection, keys: Keys, top_logprobs: int) -> None:
    """Raises `ArgumentError` if each live worker says that it can give fewer; where one does not say, it is asked.

    Raises `RedisUnavailableError`.
    """
    if rule := await _too_many(connection, keys, top_logprobs):
        raise ArgumentError("top_logprobs", top_logprobs, rule)


async def check_config_candidates(connection: Connection, keys: Keys, config: GenerationConfig) -> None:
    """The same for the option of a config, as a `ConfigError`."""
    if rule := await _too_many(connection, keys, config.top_logprobs):
        raise ConfigError("top_logprobs", rule, config.top_logprobs)


async def _too_many(connection: Connection, keys: Keys, top_logprobs: int) -> str | None:
    if not top_logprobs:
        return None
    reports = await connection.call("ask the workers' limits", partial(live_reports, keys=keys))
    limits = [report.max_logprobs for report in reports.values()]
    known = [limit for limit in limits if limit is not None]
    if not known or len(known) < len(limits) or max(known) >= top_logprobs:
        return None
    return f"no live worker gives more than {max(known)}: ask for fewer, or start workers with a higher limit"
