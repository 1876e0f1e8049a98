"""Rows from which nothing can be sampled are told apart from all others, and end their request."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from rollstream.worker.engines.vllm.inside.logits import NOT_FINITE, can_end_lost, end_lost, lost_rows, watch_rows

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_without_a_finite_maximum_is_lost(dtype: torch.dtype) -> None:
    rows = [[1.0, 2.0], [-INF, 2.0], [0.0, 0.0], [-INF, -INF], [NAN, NAN], [1.0, NAN], [INF, 1.0], [-INF, NAN]]

    assert lost_rows(torch.tensor(rows, dtype=dtype)).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


class Core:
    """Like vLLM's EngineCore; a step gives what the object was made with."""

    def __init__(self, outputs: dict[int, Any] | None) -> None:
        self.outputs = outputs
        self.aborted: list[str] = []

    def step(self) -> tuple[dict[int, Any] | None, bool]:
        return self.outputs, True

    step_with_batch_queue = step

    def abort_requests(self, names: list[str]) -> None:
        self.aborted += names


def output(name: str, nans: int, finish: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(request_id=name, num_nans_in_logits=nans, finish_reason=finish, stop_reason=None)


@pytest.mark.parametrize("step", ["step", "step_with_batch_queue"])
def test_a_request_whose_row_was_lost_ends_with_an_error_and_no_other_does(step: str) -> None:
    kind = type("Core", (Core,), dict(vars(Core)))
    for _ in range(2):  # vLLM loads plugins more than once
        end_lost(kind, "error")
    core = kind({0: SimpleNamespace(outputs=[output("good", 0), output("lost", 1), output("last", 3, "length")])})

    outputs, executed = getattr(core, step)()

    found = {one.request_id: (one.finish_reason, one.stop_reason) for one in outputs[0].outputs}
    assert found == {"good": (None, None), "lost": ("error", NOT_FINITE), "last": ("error", NOT_FINITE)}
    assert (core.aborted, executed) == (["lost"], True)


def test_a_step_without_outputs_stays_one() -> None:
    kind = type("Core", (Core,), dict(vars(Core)))
    end_lost(kind, "error")

    assert kind(None).step() == (None, True)


def test_an_output_that_names_no_nans_cannot_end_a_request() -> None:
    fields = ("request_id", "finish_reason", "stop_reason", "num_nans_in_logits")

    assert can_end_lost(fields)
    assert not can_end_lost(fields[:3])


@pytest.fixture
def module() -> Any:
    """Stands for one of vLLM's, of which there is one of a version."""
    module = sys.modules["runner_of_vllm"] = ModuleType("runner_of_vllm")
    yield module
    del sys.modules["runner_of_vllm"]


def _runner(**attributes: Any) -> Any:
    return type("Runner", (), {"__module__": "runner_of_vllm", **attributes})()


LOGITS = torch.tensor([[1.0, 2.0], [INF, 1.0]])


def test_the_v2_runners_sampler_counts_lost_rows(module: Any) -> None:
    module.get_num_nans = lambda logits: logits.isnan().sum(-1)
    sampler = _runner(compute_nans=False)

    assert all(watch_rows(SimpleNamespace(sampler=sampler)) for _ in range(2))
    assert (sampler.compute_nans, module.get_num_nans(LOGITS).tolist()) == (True, [0, 1])


def test_the_runner_with_a_count_of_its_own_counts_lost_rows(module: Any) -> None:
    module.count_nans_per_row = lambda logits: logits.isnan().sum(-1)

    assert all(watch_rows(_runner(sampler=object())) for _ in range(2))
    assert module.count_nans_per_row(LOGITS).tolist() == [0, 1]


def test_the_runner_with_a_method_counts_lost_rows(module: Any) -> None:
    def count(_runner: Any, logits: Any) -> Any:
        return None if logits is None else logits.isnan().sum(-1).tolist()

    runner = _runner(sampler=object(), _get_nans_in_logits=count)

    assert all(watch_rows(runner) for _ in range(2))
    assert (runner._get_nans_in_logits(LOGITS), runner._get_nans_in_logits(None)) == ([0, 1], None)


def test_a_runner_that_counts_nothing_is_said_to_be_one(module: Any) -> None:
    assert not watch_rows(_runner(sampler=object()))
    assert watch_rows(_runner(sampler=None)), "another rank samples"
