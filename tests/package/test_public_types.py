"""What a type checker tells a user of `rollstream`: mypy reads this file, pytest only checks that the names exist."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import rollstream
from rollstream import (
    Activate,
    AsyncClient,
    BatchHandle,
    BlockingBatchHandle,
    BlockingScoreHandle,
    Client,
    GenerationConfig,
    GroupError,
    GroupResult,
    GroupScores,
    PolicyVersion,
    Probe,
    RolloutBatch,
    ScoreBatch,
    ScoreHandle,
    SessionTurn,
    Tolerance,
    Trajectory,
    TrajectoryBatch,
    TurnFailedError,
    make_probe,
    stack,
)
from tests.support.worker_process import ROOT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rollstream.schemas.wire.routing import RoutingArray


async def async_client(
    tensor: torch.Tensor, array: NDArray[np.int64], ragged: list[list[int]], config: GenerationConfig, probe: Probe
) -> None:
    async with AsyncClient("redis://", policy="p") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.submit(tensor, tensor, config), BatchHandle)
        assert_type(
            await client.submit(array, None, config, adapter="a@1", batch_id="b", prompts_per_job=2), BatchHandle
        )
        assert_type(await client.submit(array, None, config, queue_deadline_s=60, run_deadline_s=2.5), BatchHandle)
        assert_type(await client.submit(array, None, config, min_policy_version=3, max_staleness=0), BatchHandle)
        assert_type(await client.publish_policy(1, checkpoint="step-1"), PolicyVersion)
        assert_type(await client.publish_policy(2, adapter={"a": tensor}, lora_alpha=8), PolicyVersion)
        assert_type(await client.publish_policy(3, again=1, probe=probe, activate="by_hand"), PolicyVersion)
        terms = Activate(when="when_prepared", share=0.5, timeout_s=60.0)
        assert_type(await client.publish_policy(4, checkpoint="step-1", activate=terms), PolicyVersion)
        await client.activate(3, by="ann")
        assert_type(await client.newest_version(), int)
        assert_type(await client.announced_version(), int)
        assert_type(await client.publish_adapter("math", 17, Path("math"), progress=True), str)
        await client.wait_for_version(2, workers=3)
        attached = await client.attach("b")
        assert_type(attached, BatchHandle | ScoreHandle)
        assert_type(await client.score(tensor, first=3, top_logprobs=4, progress=True), ScoreBatch)
        scores = await client.submit_scores(ragged, first=None, rows_per_job=4)
        assert_type(scores.groups(), AsyncIterator[GroupScores | GroupError])
        assert_type(await scores.result(timeout=5), ScoreBatch)
        handle = await client.submit(tensor, None, config)
        assert_type(await client.generate(ragged, config=config, timeout=5.0, progress=True), RolloutBatch)
        assert_type(handle.groups(), AsyncIterator[GroupResult | GroupError])
        assert_type(await handle.finished(), list[GroupResult | GroupError])
        assert_type(await handle.done(), int)
        assert_type(await handle.cancel(), int)
        assert_type(await handle.result(timeout=5, pad_token_id=1, pad_to_max_new_tokens=True), RolloutBatch)
        session = client.session("game-7", retention_s=60)
        turn = await session.submit([1], config, continue_of="last", request_id="a", note=b"n", adapter="a@1")
        assert_type(turn, BatchHandle)
        assert_type(await session.turns(), tuple[SessionTurn, ...])
        assert_type(await session.trajectory(("b", 0, 0)), Trajectory)
        assert_type(stack(await session.trajectories(skip=TurnFailedError)), TrajectoryBatch)
        async for answer in handle.groups():
            if isinstance(answer, GroupError):
                assert_type(answer.message, str)
            else:
                assert_type(answer, GroupResult)


def blocking_client(tensor: torch.Tensor, config: GenerationConfig) -> None:
    with Client("redis://", policy="p", partitions=2) as client:
        assert_type(client, Client)
        handle = client.submit(tensor, None, config)
        assert_type(handle, BlockingBatchHandle)
        assert_type(client.attach("b"), BlockingBatchHandle | BlockingScoreHandle)
        assert_type(client.score(tensor, None, first=1), ScoreBatch)
        assert_type(client.submit_scores(tensor).groups(), Iterator[GroupScores | GroupError])
        assert_type(handle.groups(), Iterator[GroupResult | GroupError])
        assert_type(handle.result(), RolloutBatch)
        assert_type(handle.cancel(), int)
        assert_type(handle.wait(5.0), dict[int, GroupResult | GroupError])
        assert_type(client.publish_policy(1, checkpoint=Path("step-1"), progress=True), PolicyVersion)
        assert_type(client.publish_adapter("math", 17, {"a": tensor}, lora_alpha=8.0), str)
        assert_type(client.session("game-7").submit([1], config), BlockingBatchHandle)
        assert_type(client.session("game-7").trajectory(), Trajectory)
        client.activate(1)
        assert_type(client.announced_version(), int)
        assert_type(make_probe(tensor, [[1, 2]], tolerance=Tolerance(mean=0.1, largest=1.0)), Probe)
        client.wait_for_version(1, "all", 60)
        assert_type(client.generate([[1]], None, config, min_policy_version=1, max_staleness=2), RolloutBatch)
        assert_type(client.generate([[1, 2], [3]], None, config), RolloutBatch)
        assert_type(client.routed_experts(client.generate([[1]], None, config)), list[RoutingArray | None])
        assert_type(client.generate([[1]], None, config, queue_deadline_s=60, run_deadline_s=2.5), RolloutBatch)


def rollout_batch(rollouts: RolloutBatch) -> None:
    assert_type(rollouts.sequences, "torch.Tensor")
    assert_type(rollouts.old_log_probs, "torch.Tensor | None")
    assert_type(rollouts.errors, dict[int, GroupError])
    assert_type(rollouts.version_spans, tuple[tuple[tuple[int, int], ...], ...])
    assert_type(rollouts.roll(), "dict[str, torch.Tensor]")
    assert_type(rollouts.verl(), "dict[str, torch.Tensor]")
    assert_type(rollouts[0], RolloutBatch)
    assert_type(rollouts.select(rollouts.response_lengths > 0), RolloutBatch)
    assert_type(RolloutBatch.cat(rollouts), RolloutBatch)
    assert_type(RolloutBatch.load("rollouts.safetensors").to("cuda"), RolloutBatch)
    assert_type(rollouts.responses, list[list[int]])
    for one in rollouts:
        assert_type(one, RolloutBatch)


def test_every_public_name_exists_and_is_documented() -> None:
    missing = [name for name in rollstream.__all__ if not getattr(getattr(rollstream, name), "__doc__", None)]
    assert missing == []


def test_importing_client_and_command_line_imports_neither_torch_nor_vllm() -> None:
    heavy = {"torch", "vllm", "transformers", "safetensors"}
    code = (
        "import sys, rollstream.producer.client, rollstream.producer.cli.app\n"
        f"assert not {heavy} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
