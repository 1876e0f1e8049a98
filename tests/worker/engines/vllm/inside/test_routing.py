"""Which layers tell what they choose, and routing on its way out of EngineCore. Without vLLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rollstream.worker.engines.vllm.inside.held_tokens import PIECE
from rollstream.worker.engines.vllm.inside.routing import ROUTED, layers_of
from tests.worker.engines.vllm.inside.stepped_engine import Engine, Step, output


class Router:
    def __init__(self, *, heard: bool) -> None:
        self.capture_fn = print if heard else None

    def set_capture_fn(self, capture_fn: Any) -> None:
        self.capture_fn = capture_fn


class Experts(torch.nn.Module):
    def __init__(self, layer_id: int, *, heard: bool = True, is_monolithic: bool = False) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.router = Router(heard=heard)
        self.is_monolithic = is_monolithic


@pytest.mark.parametrize(
    ("layers", "told", "why"),
    [
        ([Experts(3), Experts(1)], [1, 3], ""),
        ([Experts(0), Experts(1, heard=False)], [0, 1], "nobody listens to the router of 1"),
        ([Experts(0, is_monolithic=True)], [0], "chooses experts by itself"),
        ([torch.nn.Linear(1, 1)], [], "no layer of the model has a router"),
    ],
)
def test_layers_are_named_and_what_vllm_does_not_see_of_them(layers: list[Any], told: list[int], why: str) -> None:
    found, doubt = layers_of(torch.nn.Sequential(*layers))

    assert found == told
    assert why in doubt
    assert bool(why) == bool(doubt)


def row(token: int) -> Any:
    """A view on the array of a whole step, as vLLM gives it."""
    return np.full((7, 2, 2), token, np.uint8)[3:4]


@pytest.mark.parametrize("length", [1, 2, PIECE, PIECE + 1, 100])
def test_all_rows_of_a_request_that_asked_arrive_in_order(length: int) -> None:
    engine, read = Engine(), list[Any]()
    engine.add("a")
    engine.requests["a"].sampling_params.extra_args = {ROUTED: True}

    for token in range(length):
        out: Any = output("a", token, last=token == length - 1)
        out.routed_experts = row(token)
        step = Step([out])
        engine.held.take(step, engine.requests)
        read += [one.routed_experts for one in list[Any](step.outputs)]

    assert np.concatenate(read)[:, 0, 0].tolist() == list(range(length))
    assert len(read) == -(-length // PIECE)


def test_what_is_held_back_does_not_keep_whole_steps_in_memory() -> None:
    engine = Engine()
    engine.add("a")
    engine.requests["a"].sampling_params.extra_args = {ROUTED: True}
    out: Any = output("a", 0)
    out.routed_experts = row(0)

    engine.held.take(Step([out]), engine.requests)

    assert [one.base for one in engine.held.parts["a"].routing] == [None]


@pytest.mark.parametrize("kind", ["FINAL_ONLY", "DELTA"])
def test_that_of_requests_that_did_not_ask_is_not_sent(kind: str) -> None:
    engine, read = Engine(), list[Any]()
    engine.add("a", kind)

    for token in range(PIECE + 2):
        out: Any = output("a", token)
        out.routed_experts = row(token)
        step = Step([out])
        engine.held.take(step, engine.requests)
        read += step.outputs

    assert read
    assert [one.routed_experts for one in read] == [None] * len(read)
