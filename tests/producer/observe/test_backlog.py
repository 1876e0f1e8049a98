"""What counts as backlog, and the estimate against how long workers of a known speed take for it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.observe.backlog import LEAST_S, backlog_of
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import FEWEST_ANSWERS, Rate
from rollstream.schemas.keys import totals
from tests.support.fault_steps import stubs
from tests.support.reports import report_of
from tests.support.worker_process import until

WORKERS = 2
TOKENS_PER_S = 20
"""One sequence's."""
SEQUENCES = 4
"""So many run at once in a worker."""
LENGTH = 10
FACTOR = 1.5
"""The estimate may be off by so much."""


MEASURED = Rate(tokens_per_s=100.0, share=0.5, answers=FEWEST_ANSWERS)


def backlog(rate: Rate = MEASURED, **changes: Any) -> Any:
    numbers = {"tokens": 4000, "groups": 4, "waiting": 2, "pending": 1, "workers": 2, "assumed": 10.0}
    return backlog_of(rate, **numbers | changes)


@pytest.mark.parametrize(
    ("changes", "fleet_s", "worker_s"),
    [
        ({}, 10.0, 20.0),
        ({"workers": 1}, 20.0, 20.0),
        ({"workers": 0}, 20.0, 20.0),
        ({"rate": Rate(tokens_per_s=100.0, share=0.5, answers=FEWEST_ANSWERS - 1)}, 20.0, 40.0),
        ({"rate": Rate()}, 200.0, 400.0),
        ({"tokens": 0}, LEAST_S / 2, LEAST_S),
        ({"tokens": 0, "groups": 0}, 0.0, 0.0),
        ({"waiting": 0}, 10.0, 20.0),
        ({"waiting": 0, "pending": 0}, 0.0, 0.0),
    ],
    ids=[
        "tokens over speed over workers", "one worker", "none counts as one", "too few answers to know the share",
        "a speed that nobody measured is assumed", "rows to score keep a worker", "nothing is open",
        "jobs in workers count", "what is in no job cannot be answered",
    ],
)  # fmt: skip
def test_a_backlog_is_the_work_of_all_that_has_no_answer(
    changes: dict[str, Any], fleet_s: float, worker_s: float
) -> None:
    found = backlog(**changes)

    assert (found.backlog_seconds, found.worker_seconds) == (fleet_s, worker_s)


def test_the_least_work_is_above_0_for_any_number_of_workers() -> None:
    found = backlog(Rate(tokens_per_s=9e11), tokens=1, workers=1000)

    assert 0 < found.backlog_seconds < 1e-12


async def test_workers_that_start_or_drain_do_not_shorten_it(
    reader: FleetReader, trainer: AsyncClient, server: Any, keys: Keys
) -> None:
    await trainer.submit([[1]] * 4, None, GenerationConfig(max_new_tokens=100))
    for state in ("starting", "serving", "paused", "draining"):
        report_of(server, keys, state, {"state": state})

    found = (await reader.read()).backlog

    assert found is not None
    assert (found.workers, found.measured, found.worker_seconds, found.backlog_seconds) == (2, False, 0.4, 0.2)


async def test_a_queue_of_rows_to_score_keeps_a_worker(reader: FleetReader, trainer: AsyncClient) -> None:
    handle = await trainer.submit_scores([[1, 2, 3]])

    found = (await reader.read()).backlog
    await handle.cancel()
    cancelled = (await reader.read()).backlog

    assert found is not None
    assert (found.asked_tokens, found.worker_seconds) == (0, LEAST_S)
    assert cancelled is not None
    assert cancelled.worker_seconds == 0.0


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("of", ["totals", "jobs"])
async def test_what_cannot_be_read_is_unknown_and_not_empty(
    connection: Connection, trainer: AsyncClient, server: Any, keys: Keys, of: str
) -> None:
    await trainer.submit([[1]] * 4, None, GenerationConfig(max_new_tokens=100))
    key = totals(keys.jobs(0)) if of == "totals" else keys.jobs(0)
    server.delete(key)
    server.set(key, "of another type")

    fleet = await FleetReader(connection=connection, keys=keys).read()

    assert fleet.backlog is None
    assert any("WRONGTYPE" in problem for problem in fleet.problems)


@pytest.mark.large
async def test_a_backlog_takes_as_long_as_estimated_within_a_factor(
    redis_url: str, policy: str, reader: FleetReader, trainer: AsyncClient
) -> None:
    """A worker gives its rate after a minute of work, so this takes two."""
    groups_a_s = WORKERS * SEQUENCES * TOKENS_PER_S // LENGTH
    flags = ["--engine", "stub", "--stub-vocab-size", "1000", "--stub-tokens-per-s", str(TOKENS_PER_S)]
    config = GenerationConfig(max_new_tokens=LENGTH, ignore_eos=True)
    with stubs(redis_url, policy, *flags, "--max-num-seqs", str(SEQUENCES), count=WORKERS):
        first = await trainer.submit([[1]] * 70 * groups_a_s, None, config, prompts_per_job=2)
        unmeasured = (await reader.read()).backlog_s

        async def measured() -> bool:
            return (await reader.read()).rate.tokens_per_s is not None

        await until(measured, 180)
        await first.wait(timeout=180)
        began = time.monotonic()
        queued = await trainer.submit([[1]] * 20 * groups_a_s, None, config, prompts_per_job=2)
        estimate = (await reader.read()).backlog_s
        await queued.wait(timeout=120)
        truth = time.monotonic() - began

    assert unmeasured is None
    assert estimate is not None
    assert truth / FACTOR < estimate < truth * FACTOR, (estimate, truth)
    assert (await reader.read()).backlog_s == 0.0
