"""Several engines behave as one: work is spread, adapters are in all, and the death of one is the death of all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from rollstream.schemas import ErrorCode
from rollstream.worker.engines.replica_sessions import MOST_SESSIONS, ReplicaSessions
from rollstream.worker.engines.replicas import Replicas, settings_of_one
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import (
    DataError,
    EngineDiedError,
)
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import Adapter
from rollstream.worker.weights.checkpoint import read_content
from tests.support.weights.seen_engine import Seen, request, settings
from tests.support.worker_process import running_worker


async def test_a_group_goes_to_the_engine_with_the_fewest_sequences() -> None:
    engines = [Seen(stub_tokens_per_s=100), Seen(stub_tokens_per_s=100)]
    both = Replicas(engines)
    big = asyncio.create_task(both.generate(request("b/0", n=4)))
    await asyncio.sleep(0)

    await asyncio.gather(*(both.generate(request(f"b/{number}")) for number in range(1, 5)))
    await big

    assert engines[0].prompts == [[5, 0]]
    assert engines[1].prompts == [[5, 1], [5, 2], [5, 3], [5, 4]]


async def test_a_sessions_turns_go_to_the_engine_that_ran_the_last_unless_it_is_full() -> None:
    engines = [Seen(stub_tokens_per_s=100), Seen(stub_tokens_per_s=100)]
    both = Replicas(engines)

    async def turn(number: int, session: str | None) -> None:
        await both.generate(replace(request(f"b/{number}"), session=session))

    await turn(0, "talk")
    for number in range(1, 4):
        other = asyncio.create_task(turn(10 + number, None))  # makes the other engine the emptier one
        await asyncio.sleep(0)
        await turn(number, "talk")
        await other
    assert [5, 3] in engines[0].prompts
    assert not {1, 2, 3}.intersection(prompt[1] for prompt in engines[1].prompts)

    sessions, most = ReplicaSessions(), [2, 2]
    assert [sessions.place("s", running, most) for running in ([0, 0], [1, 0], [2, 1], [2, 2], [0, 1])] == [
        0, 0, 1, 1, 1,
    ]  # fmt: skip
    for number in range(MOST_SESSIONS):
        sessions.place(str(number), [0, 0], most)
    assert sessions.place("s", [0, 1], most) == 0, "it was forgotten"


async def test_what_was_cancelled_no_longer_counts() -> None:
    engines = [Seen(stub_tokens_per_s=1), Seen(stub_tokens_per_s=1)]
    both = Replicas(engines)
    for _ in range(2):
        running = asyncio.create_task(both.generate(request("b/0")))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])

    assert [len(engine.prompts) for engine in engines] == [2, 0]


async def test_the_steps_of_a_beam_search_stay_on_one_engine_and_searches_are_spread() -> None:
    engines = [Seen(), Seen()]
    both = Replicas(engines)

    for number in range(16):
        await beam_search(both, request(f"batch/{number}", n=2, num_beams=3))

    places = [{prompt[1] for prompt in engine.prompts} for engine in engines]
    assert places[0] | places[1] == set(range(16))
    assert not places[0] & places[1]
    assert min(map(len, places)) >= 2


async def test_adapters_and_weights_reach_every_engine(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    all_of_them = Replicas(engines)
    adapter = Adapter(name="math@1", int_id=1, path=checkpoint)

    await all_of_them.start()
    await all_of_them.load_adapter(adapter)
    await all_of_them.load_checkpoint(4, checkpoint, "keep")
    assert [engine.started for engine in engines] == [True] * 3
    assert [engine.adapters for engine in engines] == [{"math@1"}] * 3
    assert [engine.policy_version for engine in engines] == [4] * 3
    assert all_of_them.policy_version == 4
    await all_of_them.unload_adapter(adapter)
    await all_of_them.close()

    assert [engine.adapters for engine in engines] == [set()] * 3
    assert [engine.closed for engine in engines] == [True] * 3


async def test_an_adapter_that_one_engine_refuses_is_in_none(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    engines[1].fails = DataError(ErrorCode.ADAPTER_REFUSED, "adapter", "no layer takes it")

    with pytest.raises(DataError, match="no layer takes it"):
        await Replicas(engines).load_adapter(Adapter(name="math@1", int_id=1, path=checkpoint))

    assert [engine.adapters for engine in engines] == [set()] * 3


async def test_every_engine_prepares_a_checkpoint(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]

    await Replicas(engines).prepare(checkpoint, read_content(checkpoint))

    assert [engine.prepared for engine in engines] == [[checkpoint]] * 2


async def test_the_death_of_one_is_found_at_once_also_while_another_is_waited_for(checkpoint: Path) -> None:
    engines = [Seen(stub_tokens_per_s=1), Seen()]
    both = Replicas(engines)
    busy = asyncio.create_task(engines[0].generate(request("b/0", tokens=1000)))
    await asyncio.sleep(0)
    engines[1].fails = EngineDiedError("test")

    async with asyncio.timeout(30):
        with pytest.raises(EngineDiedError):
            await both.load_checkpoint(4, checkpoint, "wait")
        with pytest.raises(EngineDiedError):
            await both.check()
    busy.cancel()


def test_memory_is_the_workers_and_sequences_are_each_engines() -> None:
    of_worker = settings(replicas=4, gpu_memory_utilization=0.8, kv_cache_bytes=2**30)

    one = settings_of_one(of_worker)

    assert (one.gpu_memory_utilization, one.kv_cache_bytes, one.max_num_seqs) == (0.2, 2**28, 8)
    assert Replicas([StubEngine(one)] * 4).info.max_num_seqs == 32
    assert (of_worker.admitted_sequences, settings().admitted_sequences) == (40, 10)


def test_replicas_share_one_gpu() -> None:
    with pytest.raises(ValueError, match="--replicas: they share one GPU"):
        settings(replicas=2, tensor_parallel_size=2)


def test_a_worker_of_three_engines_runs_more_than_one_holds_and_answers_every_group(
    redis_url: str, policy: str, client: Client
) -> None:
    # 24 sequences of half a second: one engine of 4 places needs 3 s, three need 1.
    flags = ("--engine", "stub", "--replicas", "3", "--max-num-seqs", "4", "--stub-tokens-per-s", "16")
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True)
    with running_worker(redis_url, policy, *flags) as worker:
        handle = client.submit([[5 + row] for row in range(24)], None, config, prompts_per_job=1)
        answers = handle.wait(timeout=30)

        assert len(answers) == 24
        assert "max_num_seqs=12" in worker.log
