"""A version that goes to workers in a round, straight from the trainer's memory, once the store has it too."""

from __future__ import annotations

import logging

from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.hashes.worker_report import WorkerState

from ..errors import RedisUnavailableError
from ..policies.live_workers import live_reports
from ..policies.publish_policy import announce_weights
from ..policies.serving_terms import ServingTerms
from ..redis_io.connection import Connection
from ..rounds.lead import RoundLeader, meeting_of
from ..rounds.outgoing import Outgoing
from ..rounds.round_options import RoundOptions

log = logging.getLogger("rollstream")


async def announce_in_round(
    connection: Connection,
    keys: Keys,
    terms: ServingTerms,
    options: RoundOptions,
    load: Outgoing,
    announcement: PolicyVersion,
) -> PolicyVersion:
    """Announce the version and lead its round. How that ends is no error: a worker that missed it reads the store.

    Raises `RoundRefusedError` before the announcement, and what `announce_weights` raises.
    """
    meeting = meeting_of(options.backend, options.host_towards(connection.access), options.timeout_s, load.device)
    leader = RoundLeader(
        connection=connection,
        keys=keys,
        version=announcement.version,
        sha256=announcement.sha256,
        load=load,
        options=options,
        meeting=meeting,
    )
    await leader.open()
    announced = await announce_weights(connection, keys, announcement.model_copy(update={"transport": "nccl"}), terms)
    try:
        outcome = await leader.lead(await _expected(connection, keys, options, announced.version))
    except RedisUnavailableError as error:
        log.warning("policy version %s was announced, its round was not seen to its end: %s", announced.version, error)
        return announced
    if outcome.why:
        log.warning("policy version %s was not sent: %s; workers read the store", announced.version, outcome.why)
    else:
        told = announced.version, len(outcome.received), outcome.seconds
        log.info("policy version %s: %s workers received it in %s s", *told)
    return announced


async def _expected(connection: Connection, keys: Keys, options: RoundOptions, version: int) -> frozenset[str]:
    """The workers that are waited for."""
    reports = await connection.call("read the workers", lambda redis: live_reports(redis, keys))
    return frozenset(
        name
        for name, report in reports.items()
        if report.takes_rounds == options.backend
        and report.policy_version != version
        and report.state in (WorkerState.SERVING, WorkerState.PAUSED)
    )
