"""What had arrived from an engine that dies goes to Redis, and another worker goes on from it."""

from __future__ import annotations

import asyncio

import pytest

from rollstream import AsyncClient
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.requests import Completion, GenerateRequest, Partial
from tests.support.partial_steps import (
    asked,
    at_least,
    check_drawn,
    given_back,
    groups_of,
    resumed_at,
    serving,
)

pytestmark = pytest.mark.usefixtures("short_reads")
PROMPTS = [[5, 6], [7, 8], [9, 10], [11, 12]]


class Dying(StubEngine):
    """Its process ends when the test says; its caller still has what had arrived, as with vLLM."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.dead = False
        self._had: dict[str, list[Partial]] = {}

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        running = asyncio.create_task(super().generate(request))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=0.01)
                if self.dead:
                    self._had[request.request_id] = super().partials(request.request_id)
                    raise EngineDiedError("gone")
        finally:
            running.cancel()
            await asyncio.wait([running])
        return running.result()

    def partials(self, request_id: str) -> list[Partial]:
        return self._had.get(request_id) or super().partials(request_id)


async def test_what_had_arrived_from_an_engine_that_dies_is_handed_over(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, Dying, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS, config=asked(300), prompts_per_job=1)
        await at_least(first, 20)
        engine = first._engine
        assert isinstance(engine, Dying)
        engine.dead = True
        await given_back(first)
    async with serving(redis_url, policy) as second:
        results = await groups_of(batch)

    places = [place for group in results for place in resumed_at(group)]
    assert check_drawn(results) == [[place] for place in places]
    assert min(places) >= 15
    assert first._measures.tokens_generated + second._measures.tokens_generated == 2400
    assert {group.delivery for group in results} == {2}, "the delivery counts against the jobs"


async def test_when_one_of_several_engines_dies_the_groups_of_the_others_are_handed_over_too(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    engines: list[Dying] = []

    def two(settings: WorkerSettings) -> Replicas:
        engines[:] = [Dying(settings), Dying(settings)]
        return Replicas(engines)

    async with serving(redis_url, policy, two, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS, config=asked(300), prompts_per_job=1)
        await at_least(first, 20)
        assert [engine._places.running for engine in engines] == [4, 4]
        engines[0].dead = True
        await given_back(first)
    async with serving(redis_url, policy) as second:
        results = await groups_of(batch)

    places = [place for group in results for place in resumed_at(group)]
    assert check_drawn(results) == [[place] for place in places]
    assert min(places) >= 15
    assert second._measures.tokens_generated == 2400 - sum(places)
