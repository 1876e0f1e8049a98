"""A probe that a live worker could never reproduce, whatever its weights are, is refused before the announcement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, ProbeError
from rollstream.producer.probes.probe_of import probe_of
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, lora, reporting

ROW = list(range(5, 25))
PROBE = probe_of([ROW], [[-1.0] * 19], vocab_size=512)
"""A worker needs `--max-model-len 20` for it."""


@pytest.fixture(params=["checkpoint", "adapter", "again"])
async def weights(request: pytest.FixtureRequest, trainer: AsyncClient, models: Path) -> dict[str, Any]:
    """What is published as version 2."""
    if request.param == "adapter":
        return {"adapter": lora(), "lora_alpha": 8}
    await trainer.publish_policy(1, checkpoint=models / "step-1")
    return {"again": 1} if request.param == "again" else {"checkpoint": models / "step-2"}


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"vocab_size": "500"}, "of a vocabulary of 512 ids, and worker gpu-7 has a model of 500: make it with"),
        ({"max_model_len": "19"}, "a row of 20 ids, and worker gpu-7 scores rows of at most 19 .--max-model-len"),
    ],
    ids=["vocabulary", "length"],
)
async def test_a_probe_that_a_worker_cannot_score_is_refused(
    trainer: AsyncClient, queue: Queue, weights: dict[str, Any], report: dict[str, Any], told: str
) -> None:
    reporting(queue, "gpu-6", 0, vocab_size="512", max_model_len="20")
    reporting(queue, "gpu-7", 0, **report)

    with pytest.raises(ProbeError, match=told):
        await trainer.publish_policy(2, probe=PROBE, **weights)

    assert 2 not in [one.version for _, one in announced(queue)]


async def test_one_that_says_nothing_yet_or_is_ending_is_no_reason(
    trainer: AsyncClient, queue: Queue, models: Path
) -> None:
    reporting(queue, "starts", 0, state="starting")
    reporting(queue, "ends", 0, state="draining", vocab_size="500", max_model_len="8")
    reporting(queue, "fits", 0, vocab_size="512", max_model_len="20")

    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=PROBE)

    assert [one.version for _, one in announced(queue)] == [1]
