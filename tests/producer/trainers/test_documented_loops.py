"""The loops that docs/trainers.md shows keep the bound and lose no sample, against a real worker."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from rollstream import StalenessGate
from rollstream.producer.demo.tiny_model import write_model
from tests.support.worker_process import ROOT, running_worker


def documented_loops() -> list[Any]:
    """The programs of docs/trainers.md that use a gate, as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.DOTALL)
    found = [block for block in blocks if "StalenessGate(" in block]
    return [pytest.param(block, id="async" if "async def" in block else "blocking") for block in found]


def test_both_documented_loops_are_tested() -> None:
    assert [parameter.id for parameter in documented_loops()] == ["async", "blocking"]


@pytest.mark.parametrize("program", documented_loops())
def test_the_documented_loop_keeps_the_bound_and_loses_no_sample_where_groups_fail(
    redis_url: str, policy: str, tmp_path: Path, program: str
) -> None:
    good, bad = [5, 6], [4000]  # no token of the stub engine's
    batches = [[good, bad], [bad, good], [good, good], [bad, bad], [good, good], [good, good]]

    def save(version: int) -> Path:
        return write_model(tmp_path / f"v{version}", seed=version, tokenizer=False)

    defined: dict[str, Any] = {}
    exec(program.replace("math-7b", policy), defined)
    stub = ("--engine", "stub", "--stub-vocab-size", "1000", "--checkpoint-dir", str(tmp_path))
    with running_worker(redis_url, policy, *stub):
        ended = defined["main"](redis_url, batches, save)
        gate: StalenessGate = asyncio.run(ended) if inspect.iscoroutine(ended) else ended

    counts = gate.counts
    assert (counts.consumed, counts.failed, counts.returned, counts.late) == (8 * 4, 4 * 4, 0, 0)
    assert (counts.submitted, gate.outstanding, gate.version) == (48, 0, 6)
    assert gate.staleness[0] + gate.staleness[1] == 32
    assert gate.staleness[1] > 0, "nothing was sampled while the trainer trained"
