"""What is staged is one checkpoint, in all of vLLM's processes or in none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.calls import Calls
from rollstream.worker.engines.vllm.staging import shared_weights
from rollstream.worker.engines.vllm.staging.staged_weights import StagedWeights
from rollstream.worker.engines.vllm.staging.staging import Staging
from rollstream.worker.errors import EngineDiedError, NotStagedError
from rollstream.worker.weights import checkpoint


class Process(StagedWeights):
    """A worker of vLLM, of which only this part is there."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")


class Slow(Process):
    """Maps for ever."""

    def rollstream_staged(self) -> str | None:
        return None


class Failing(Process):
    """Cannot map."""

    def rollstream_staged(self) -> str | None:
        return "OSError: no such memory"


class Ranks:
    """An `AsyncLLM` with these processes, which answers at once."""

    def __init__(self, *processes: Process) -> None:
        self.processes = processes
        self.asked = asyncio.Event()

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        if method == "rollstream_staged":
            self.asked.set()
        return [getattr(process, method)(*args) for process in self.processes]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("staging")
    return [write_model(root / f"step-{seed}", seed=seed, tokenizer=False) for seed in range(2)]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert len(shared_weights._in_use) == 0


def staging(llm: Ranks, limit_s: float = 20) -> Staging:
    return Staging(llm=llm, calls=Calls(dead=ConnectionError, step_limit_s=5, load_limit_s=5), limit_s=limit_s)


async def test_all_processes_map_the_same_memory(steps: list[Path]) -> None:
    ranks = Ranks(Process(), Process())
    found = staging(ranks)
    content = checkpoint.read_content(steps[0])

    await found.stage(steps[0], content)

    assert found.has(steps[0], content)
    one, other = (dict(process.rollstream_staged_tensors()) for process in ranks.processes)
    one["model.norm.weight"][:] = 7
    assert other["model.norm.weight"].eq(7).all()
    async with found.around(steps[0], content):
        assert found.has(steps[0], content)
    assert not found.has(steps[0], content)
    assert await ranks.collective_rpc("rollstream_staged") == ["nothing is staged"] * 2


async def test_the_same_files_again_need_nothing(steps: list[Path]) -> None:
    ranks = Ranks(Process())
    found, content = staging(ranks), checkpoint.read_content(steps[0])
    await found.stage(steps[0], content)
    before = ranks.processes[0].rollstream_mapped

    await found.stage(steps[0], content)

    assert ranks.processes[0].rollstream_mapped is before
    found.end()


async def test_another_content_of_the_same_folder_is_not_what_is_staged(steps: list[Path]) -> None:
    found, content = staging(Ranks(Process())), checkpoint.read_content(steps[0])
    await found.stage(steps[0], content)

    assert not found.has(steps[0], checkpoint.read_content(steps[1]))
    assert not found.has(steps[0], checkpoint.unread_content(steps[0]))
    found.end()


async def test_a_process_that_cannot_map_it_leaves_nothing_staged_in_any(steps: list[Path]) -> None:
    ranks = Ranks(Process(), Failing())
    found, content = staging(ranks), checkpoint.read_content(steps[0])

    with pytest.raises(NotStagedError, match=r"step-0: not in memory, .* no such memory"):
        await found.stage(steps[0], content)

    assert not found.has(steps[0], content)
    assert ranks.processes[0].rollstream_staged() == "nothing is staged"


async def test_a_process_that_never_ends_is_given_up(steps: list[Path]) -> None:
    ranks = Ranks(Slow())

    with pytest.raises(NotStagedError, match=r"not done within 0\.2 s"):
        await staging(ranks, limit_s=0.2).stage(steps[0], checkpoint.read_content(steps[0]))

    assert ranks.processes[0].rollstream_mapped is None


async def test_a_swap_to_another_checkpoint_ends_it(steps: list[Path]) -> None:
    ranks = Ranks(Slow())
    found, contents = staging(ranks), [checkpoint.read_content(step) for step in steps]
    preparing = asyncio.create_task(found.stage(steps[0], contents[0]))
    await asyncio.wait_for(ranks.asked.wait(), 20)

    async with found.around(steps[1], contents[1]):
        with pytest.raises(NotStagedError, match="another checkpoint is wanted"):
            await asyncio.wait_for(preparing, 20)

    assert ranks.processes[0].rollstream_mapped is None


async def test_the_next_checkpoint_waits_until_a_swap_has_read_the_memory(steps: list[Path]) -> None:
    ranks = Ranks(Process())
    found, contents = staging(ranks), [checkpoint.read_content(step) for step in steps]
    await found.stage(steps[0], contents[0])

    async with found.around(steps[0], contents[0]):
        preparing = asyncio.create_task(found.stage(steps[1], contents[1]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert found.has(steps[0], contents[0])
    await asyncio.wait_for(preparing, 20)

    assert found.has(steps[1], contents[1])
    found.end()


async def test_the_end_of_the_engine_frees_the_memory(steps: list[Path]) -> None:
    ranks = Ranks(Slow())
    calls = Calls(dead=ConnectionError, step_limit_s=5, load_limit_s=5)
    found = Staging(llm=ranks, calls=calls, limit_s=20)
    preparing = asyncio.create_task(found.stage(steps[0], checkpoint.read_content(steps[0])))
    await asyncio.wait_for(ranks.asked.wait(), 20)

    calls.die("a test")
    found.end()

    with pytest.raises((EngineDiedError, NotStagedError)):
        await asyncio.wait_for(preparing, 20)
