"""What had arrived from an engine that dies goes to Redis, and another worker goes on from it."""

from __future__ import annotations

import asyncio

import pytest

from rollstream import AsyncClient
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.operations import memory_watch
from rollstream.worker.requests import Completion, GenerateRequest, Partial
from tests.support.partials.partial_steps import (
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


class Hung(StubEngine):
    """It makes no step any more; only the worker's watch sees it."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.hung = False

    async def check(self) -> None:
        if self.hung:
            raise EngineDiedError("no step")

    async def release(self) -> None:
        assert not self.hung, "nobody asks a dead engine"


class Failing(StubEngine):
    """Something of it fails that the worker does not expect."""

    fails = ""
    released = 0

    async def memory_use(self) -> None:
        if self.fails == "a role":
            raise ZeroDivisionError(self.fails)

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        running = asyncio.create_task(super().generate(request))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=0.01)
                if self.fails == "a group" and request.prompt[0] == 5:
                    raise ZeroDivisionError(self.fails)
        finally:
            running.cancel()
            await asyncio.wait([running])
        return running.result()

    async def release(self) -> None:
        self.released += 1


async def test_what_an_engine_had_that_hangs_is_handed_over(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    async with serving(redis_url, policy, Hung, stub_tokens_per_s=100, engine_timeout_s=0.1) as first:
        batch = await trainer.submit(PROMPTS, config=asked(300), prompts_per_job=1)
        await at_least(first, 20)
        engine = first._engine
        assert isinstance(engine, Hung)
        engine.hung = True
        await given_back(first)
    async with serving(redis_url, policy):
        results = await groups_of(batch)

    assert min(place for group in results for place in resumed_at(group)) >= 15
    assert check_drawn(results) == [[place] for group in results for place in resumed_at(group)]


@pytest.mark.parametrize(("fails", "prompts_per_job"), [("a role", 1), ("a group", 1), ("a group", 4)])
async def test_a_worker_that_fails_by_a_defect_hands_over_what_its_engine_has(
    redis_url: str, policy: str, trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch, fails: str, prompts_per_job: int
) -> None:
    monkeypatch.setattr(memory_watch, "PERIOD_S", 0.01)
    async with serving(redis_url, policy, Failing, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS, config=asked(300), prompts_per_job=prompts_per_job)
        await at_least(first, 20)
        engine = first._engine
        assert isinstance(engine, Failing)
        engine.fails = fails
        await given_back(first)
    async with serving(redis_url, policy) as second:
        results = await groups_of(batch)

    places = [place for group in results for place in resumed_at(group)]
    assert check_drawn(results) == [[place] if place else [] for place in places]
    whole = [group.prompt_ids[0] for group in results if 0 in resumed_at(group)]
    assert whole in ([], [5]), "the group that failed may begin again"
    assert engine.released == (prompts_per_job == 1), "a group hands over those of its own job at once"
    assert second._measures.tokens_generated == 2400 - sum(places)


async def test_a_defect_of_what_follows_versions_hands_over_nothing(
    redis_url: str, policy: str, trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS, config=asked(60), prompts_per_job=1)
        await at_least(first, 20)
        monkeypatch.setattr(first._follower, "look", _fails)
        await given_back(first)
    async with serving(redis_url, policy):
        results = await groups_of(batch)

    assert {place for group in results for place in resumed_at(group)} == {0}


async def _fails() -> None:
    raise ZeroDivisionError("a defect")
