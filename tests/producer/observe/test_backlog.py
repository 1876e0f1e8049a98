"""The estimate of a backlog against how long workers of a known speed take for it."""

from __future__ import annotations

import time

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.observe.read_fleet import FleetReader
from tests.support.fault_steps import stubs
from tests.support.worker_process import until

WORKERS = 2
TOKENS_PER_S = 20
"""One sequence's."""
SEQUENCES = 4
"""So many run at once in a worker."""
LENGTH = 10
FACTOR = 1.5
"""The estimate may be off by so much."""


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
        backlog = await trainer.submit([[1]] * 20 * groups_a_s, None, config, prompts_per_job=2)
        estimate = (await reader.read()).backlog_s
        await backlog.wait(timeout=120)
        truth = time.monotonic() - began

    assert unmeasured is None
    assert estimate is not None
    assert truth / FACTOR < estimate < truth * FACTOR, (estimate, truth)
    assert (await reader.read()).backlog_s == 0.0
