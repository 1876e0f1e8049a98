"""A turn that was read with others and is given back, because nothing more fits, makes no worker its session's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.traces.names import Outcome
from rollstream.worker.conversations.session_workers import SessionWorkers
from rollstream.worker.intake.endings import Endings
from rollstream.worker.intake.sessions import Sessions
from rollstream.worker.jobs.deadlines import RedisClock
from tests.support.replaying import a_job


@pytest.mark.parametrize(("supplied", "outcome", "noted"), [(True, Outcome.GIVEN_BACK, None), (False, None, b"w-1")])
async def test_only_a_worker_that_runs_a_turn_is_its_sessions_worker(
    redis: Redis, policy: str, supplied: bool, outcome: Outcome | None, noted: bytes | None
) -> None:
    keys, admission = Keys(policy), SimpleNamespace(is_supplied=supplied)
    workers = SessionWorkers(redis=redis, keys=keys, consumer="w-1")
    others: dict[str, Any] = {"jobs_keys": [], "consumer": "w-1", "lease_s": 60.0, "admission": admission}
    sessions = Sessions(redis=redis, workers=workers, clock=RedisClock(), **others)
    names = "runner", "budgets", "parking", "dead_letters", "traces", "measures"
    rest: dict[str, Any] = {**dict.fromkeys(names), "leases": AsyncMock(), "admission": admission}
    turn: Any = SimpleNamespace(job=a_job("b", session="s"), lease=SimpleNamespace(entry_id="1-0"))

    assert await Endings(sessions=sessions, **rest)._leave(turn, is_spare=True) == outcome

    assert await redis.get(keys.session_worker("s")) == noted
    await redis.delete(keys.session_worker("s"))
