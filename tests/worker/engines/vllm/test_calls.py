"""A call to an engine ends at its limit or with the engine; one that loads weights has a limit of its own."""

from __future__ import annotations

import asyncio

import pytest

from rollstream.worker.engines.vllm.calls import Calls
from rollstream.worker.errors import EngineDiedError


class GoneError(Exception):
    """Raised when the engine's process ended, as vLLM would."""


async def fail(error: Exception) -> None:
    raise error


async def test_a_call_without_an_answer_is_the_engines_death_and_every_other_call_ends_with_it() -> None:
    calls = Calls(dead=GoneError, step_limit_s=0.05, load_limit_s=60)
    waiting = asyncio.create_task(calls.answer(asyncio.sleep(60)))

    with pytest.raises(EngineDiedError, match=r"no step in 0\.05 s"):
        await calls.utility(asyncio.sleep(60))

    for late in (waiting, calls.answer(asyncio.sleep(60)), calls.load(asyncio.sleep(60))):
        with pytest.raises(EngineDiedError, match=r"no step in 0\.05 s"):
            await late


async def test_a_load_has_a_longer_limit_and_others_can_wait_for_its_end() -> None:
    calls = Calls(dead=GoneError, step_limit_s=0.05, load_limit_s=60)
    ending = asyncio.Event()
    loading = asyncio.create_task(calls.load(ending.wait()))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(calls.loaded())

    done, _ = await asyncio.wait([loading, waiting], timeout=0.2)
    assert not done
    ending.set()

    await asyncio.wait_for(waiting, 20)
    assert await loading
    await calls.utility(asyncio.sleep(0))


async def test_who_waits_for_a_load_waits_for_the_next_one_too_that_begins_at_once() -> None:
    calls = Calls(dead=GoneError, step_limit_s=60, load_limit_s=60)
    ending = asyncio.Event()

    async def twice() -> None:
        with pytest.raises(ValueError, match="of the call"):
            await calls.load(fail(ValueError("of the call")))
        await calls.load(ending.wait())

    loading = asyncio.create_task(twice())
    waiting = asyncio.create_task(calls.loaded())
    done, _ = await asyncio.wait([loading, waiting], timeout=0.2)
    assert not done
    ending.set()

    await asyncio.wait_for(waiting, 20)
    await loading


async def test_a_load_beyond_its_limit_is_the_engines_death_and_nobody_waits_for_it_any_more() -> None:
    calls = Calls(dead=GoneError, step_limit_s=60, load_limit_s=0.05)

    with pytest.raises(EngineDiedError, match=r"weights not loaded in 0\.05 s"):
        await calls.load(asyncio.sleep(60))

    await asyncio.wait_for(calls.loaded(), 20)


async def test_an_engine_that_says_it_is_gone_is_dead_and_any_other_error_is_the_calls_own() -> None:
    calls = Calls(dead=GoneError, step_limit_s=60, load_limit_s=60)

    with pytest.raises(ValueError, match="of the call"):
        await calls.utility(fail(ValueError("of the call")))
    assert calls.death is None

    with pytest.raises(EngineDiedError, match="its process ended"):
        await calls.utility(fail(GoneError()))
    calls.die("it was closed")
    assert calls.death == "the vLLM engine is gone: its process ended"


async def test_a_caller_that_was_cancelled_is_cancelled() -> None:
    calls = Calls(dead=GoneError, step_limit_s=60, load_limit_s=60)
    caller = asyncio.create_task(calls.utility(asyncio.sleep(60)))
    await asyncio.sleep(0)

    caller.cancel()
    calls.die("it was closed")

    with pytest.raises(asyncio.CancelledError):
        await caller
