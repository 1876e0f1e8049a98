"""Several engines behave as one: work is spread, weights agree, and the death of one is the death of all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import ErrorCode
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import (
    Adapter,
    Completion,
    GenerateRequest,
    NextTokens,
    Prove,
    Score,
    ScoreRequest,
    Scores,
    SwapMode,
)
from rollstream.worker.engines.replicas import Replicas, settings_of_one
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import (
    CheckpointRefusedError,
    DataError,
    EngineDiedError,
    ProofFailedError,
    SwapFailedError,
)
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.weights.checkpoint import Content, read_content
from tests.support.worker_process import running_worker

ROW = ScoreRequest(request_id="probe", token_ids=[5, 6, 7], first=1, top_logprobs=0, adapter=None)


async def nothing(_: Score) -> None: ...


def settings(**fields: Any) -> WorkerSettings:
    return WorkerSettings(policy="test", engine="stub", stub_vocab_size=1000, **{"max_num_seqs": 8, **fields})


class Seen(StubEngine):
    """A stub that notes what it was asked, and fails where it is told to."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(settings(**fields))
        self.started = self.closed = False
        self.prompts: list[list[int]] = []
        self.adapters: set[str] = set()
        self.loaded: list[Path] = []
        self.prepared: list[Path] = []
        self.fails: Exception | None = None
        self.paused_s = 0.0

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.prompts.append(request.prompt)
        return await super().generate(request)

    async def next_tokens(self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None) -> NextTokens:
        self.prompts.append(prompt)
        return await super().next_tokens(request_id, prompt, k, adapter)

    async def load_adapter(self, adapter: Adapter) -> None:
        if self.fails is not None:
            raise self.fails
        self.adapters.add(adapter.name)

    async def unload_adapter(self, adapter: Adapter) -> None:
        self.adapters.discard(adapter.name)

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        if self.fails is not None:
            raise self.fails
        await super().load_checkpoint(version, path, mode, content, prove)
        self.loaded.append(path)
        return self.paused_s

    async def prepare(self, path: Path, content: Content) -> None:
        await super().prepare(path, content)
        self.prepared.append(path)

    async def check(self) -> None:
        if self.fails is not None:
            raise self.fails
        await super().check()


def request(name: str, n: int = 1, tokens: int = 4, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(max_new_tokens=tokens, num_return_sequences=n, ignore_eos=True, **fields)
    return GenerateRequest(
        request_id=name,
        prompt=[5, int(name.rpartition("/")[2])],
        config=config,
        stop_token_ids=(),
        seed=None,
        adapter=None,
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step-4", seed=4, tokenizer=False)


async def test_a_group_goes_to_the_engine_with_the_fewest_sequences() -> None:
    engines = [Seen(stub_tokens_per_s=100), Seen(stub_tokens_per_s=100)]
    both = Replicas(engines)
    big = asyncio.create_task(both.generate(request("b/0", n=4)))
    await asyncio.sleep(0)

    await asyncio.gather(*(both.generate(request(f"b/{number}")) for number in range(1, 5)))
    await big

    assert engines[0].prompts == [[5, 0]]
    assert engines[1].prompts == [[5, 1], [5, 2], [5, 3], [5, 4]]


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


async def test_the_oldest_version_is_reported_until_the_engine_that_failed_has_followed(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    both = Replicas(engines)
    engines[0].fails = SwapFailedError(checkpoint, 4, 0, "test")

    with pytest.raises(SwapFailedError):
        await both.load_checkpoint(4, checkpoint, "keep")
    assert [engine.policy_version for engine in engines] == [0, 4]
    assert both.policy_version == 0

    engines[0].fails, engines[1].fails = None, EngineDiedError("it was asked again")
    await both.load_checkpoint(4, checkpoint, "keep")
    assert both.policy_version == 4


async def test_a_swap_paused_for_as_long_as_the_engine_that_paused_longest(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    for engine, paused_s in zip(engines, (0.2, 0.5, 0.1), strict=True):
        engine.paused_s = paused_s
    all_of_them = Replicas(engines)

    assert await all_of_them.load_checkpoint(4, checkpoint, "keep") == 0.5
    assert await all_of_them.load_checkpoint(4, checkpoint, "keep") == 0.0, "all of them have it"


async def test_a_number_that_is_announced_again_for_other_weights_is_loaded_by_every_engine(tmp_path: Path) -> None:
    first, other = (write_model(tmp_path / name, seed=4, tokenizer=False) for name in ("first", "other"))
    engines = [Seen(), Seen()]
    both = Replicas(engines)

    await both.load_checkpoint(1, first, "keep")
    await both.load_checkpoint(1, other, "keep")
    write_model(other, seed=5, tokenizer=False)
    await both.load_checkpoint(1, other, "keep")

    assert [engine.loaded for engine in engines] == [[first, other, other]] * 2


async def test_a_version_is_served_once_every_engine_has_proven_it(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    all_of_them = Replicas(engines)
    proven: list[Scores] = []
    third, goes_on = asyncio.Event(), asyncio.Event()

    async def prove(score: Score) -> None:
        proven.append(await score(ROW))
        if len(proven) == 3:
            third.set()
            await goes_on.wait()

    loading = asyncio.create_task(all_of_them.load_checkpoint(4, checkpoint, "keep", None, prove))
    await asyncio.wait_for(third.wait(), 20)
    assert [engine.policy_version for engine in engines] == [0, 0, 0]
    goes_on.set()
    await loading

    assert [scores.version for scores in proven] == [4, 4, 4]
    assert [engine.policy_version for engine in engines] == [4, 4, 4]


@pytest.mark.parametrize(
    "fails",
    [
        ProofFailedError(4, "it is wrong", 7.0, 9.0),
        SwapFailedError(Path("step-4"), 4, 0, "test"),
        CheckpointRefusedError(Path("step-4"), "config.json", "test"),
    ],
)
async def test_what_one_engine_cannot_prove_is_served_by_none_and_its_error_is_raised(
    checkpoint: Path, fails: Exception
) -> None:
    engines = [Seen(), Seen(), Seen()]
    proven = 0

    async def prove(_: Score) -> None:
        nonlocal proven
        proven += 1
        if isinstance(fails, ProofFailedError) and proven == 2:
            raise fails

    if not isinstance(fails, ProofFailedError):
        engines[1].fails = fails
    with pytest.raises(type(fails)) as raised:
        await Replicas(engines).load_checkpoint(4, checkpoint, "keep", None, prove)

    assert raised.value is fails
    assert [engine.policy_version for engine in engines] == [0, 0, 0]


async def test_the_death_of_an_engine_ends_the_proofs_of_the_others(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    engines[1].fails = EngineDiedError("test")

    async with asyncio.timeout(20):
        with pytest.raises(EngineDiedError):
            await Replicas(engines).load_checkpoint(4, checkpoint, "keep", None, nothing)

    assert engines[0].policy_version == 0


async def test_what_was_loaded_without_a_proof_is_loaded_again_to_be_proven(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    both = Replicas(engines)
    await both.load_checkpoint(4, checkpoint, "keep")

    for _ in range(2):
        await both.load_checkpoint(4, checkpoint, "keep", None, nothing)

    assert [engine.loaded for engine in engines] == [[checkpoint] * 2] * 2


@pytest.mark.parametrize(
    ("of_each", "of_all"), [([(7, 8), (6, 8)], (6, 8)), ([(8, 8), None], None), ([None, None], None)]
)
def test_a_probe_reached_the_experts_that_it_reached_in_every_engine(
    of_each: list[tuple[int, int] | None], of_all: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(of_each)
    monkeypatch.setattr(Seen, "experts_reached", property(lambda _: next(left)))

    assert Replicas([Seen(), Seen()]).experts_reached == of_all


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
