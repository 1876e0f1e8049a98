"""What docs/conversations.md shows of sessions runs as it stands there."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import Trajectory, TrajectoryBatch
from rollstream.schemas import Tensor
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from tests.support.told_turns import Talk
from tests.support.worker_process import ROOT


def program(word: str) -> dict[str, Any]:
    """The names that the block with this word defines."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "conversations.md").read_text(), re.DOTALL)
    (block,) = [one for one in blocks if word in one]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


class Model(torch.nn.Module):
    """Next-id scores by the id before."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(64, 64))

    def forward(self, input_ids: torch.Tensor, **_masks: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.scores[input_ids])


@pytest.mark.usefixtures("stub_worker")
async def test_the_conversation_has_ten_turns(redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = program("client.session(")
    given = names["AsyncClient"]
    names["AsyncClient"] = lambda url, **_policy: given(url, policy=policy)
    found: Trajectory = await names["main"](redis_url, [1, 2], lambda ids: [len(ids), 3])
    assert [turn.request_id for turn in found.turns] == [f"turn-{number}" for number in range(10)]
    starts = [turn.start for turn in found.turns][1:]
    assert [found.input_ids[start : start + 2].tolist() for start in starts] == [[64, 3]] * 9


async def test_the_step_learns_from_what_was_sampled_alone(talk: Talk) -> None:
    sampled_by_it: dict[str, Any] = {"logprobs": Tensor.of(np.full((1, 1), -np.log(64), np.float32))}
    (first,) = await talk.turn([1], [[10]], **sampled_by_it)
    await talk.turn([2], [[20]], first, None, **sampled_by_it)
    await talk.turn([3], [[30]], **sampled_by_it)
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    program("optimiser.step()")["step"](model, optimiser, await talk.session.trajectories(), torch.tensor([1.0, 0.0]))
    changed = model.scores.detach().abs().sum(-1).nonzero()[:, 0].tolist()
    assert changed == [1, 2, 3]  # the ids before sampled ones, and not 10, before what a tool said


async def test_the_step_refuses_images_that_the_model_would_not_see(talk: Talk) -> None:
    ref = ImageRef(sha256="a" * 64, nbytes=7, format="png", width=2, height=2)
    spans = (ImageSpan(offset=0, length=1, was=(1,)),)
    await talk.turn([1], [[10]], images=(ref,), image_spans=spans)
    model, seen = Model(), list[Any]()

    def inputs(batch: TrajectoryBatch) -> dict[str, Any]:
        seen.append(batch)
        return {}

    optimiser, step = torch.optim.SGD(model.parameters()), program("optimiser.step()")["step"]
    with pytest.raises(ValueError, match="give image_inputs"):
        step(model, optimiser, await talk.session.trajectories(), torch.tensor([1.0]))

    step(model, optimiser, await talk.session.trajectories(), torch.tensor([1.0]), inputs)

    assert seen[0].images == ((ref,),)
