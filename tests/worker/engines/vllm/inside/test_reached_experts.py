"""A share of experts is said only if every token of the probe was seen to choose its experts in every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollstream.worker.engines.vllm.inside.reached_experts import ReachedExperts, routers_of


class Router:
    global_num_experts = 8

    def __init__(self) -> None:
        self.capture_fn: Any = None

    def set_capture_fn(self, told: Any) -> None:
        self.capture_fn = told

    def choose(self, *ids: tuple[int, ...]) -> None:
        if self.capture_fn is not None:
            self.capture_fn(torch.tensor(ids))


class Layer:
    def __init__(self, router: object = None) -> None:
        self.router = router


class Model:
    """Three layers, of which two are the same mixture: vLLM's runner and its layer share a router."""

    def __init__(self) -> None:
        self.routers = [Router(), Router()]

    def modules(self) -> list[Layer]:
        first, second = self.routers
        return [Layer(), Layer(object()), Layer(first), Layer(first), Layer(second)]


def test_the_experts_of_all_layers_are_counted_until_the_end() -> None:
    model = Model()
    reached = ReachedExperts(model)
    for router in model.routers:
        router.choose((1, 2), (2, 3))
        router.choose((1, 7), (-1, -1))  # a row of padding by the kernel of experts on several devices

    assert reached.end(4) == (8, 16)
    assert [router.capture_fn for router in model.routers] == [None, None]


@pytest.mark.parametrize("chosen", [[], [(1, 2)], [(1, 2)] * 3], ids=["none", "fewer", "more"])
def test_no_share_is_said_if_a_layer_saw_other_tokens(chosen: list[tuple[int, int]]) -> None:
    model = Model()
    reached = ReachedExperts(model)
    model.routers[0].choose((1, 2), (1, 3))
    for ids in chosen:
        model.routers[1].choose(ids)

    assert reached.end(2) is None


def test_routers_that_tell_others_are_left_alone() -> None:
    model = Model()
    told: list[Any] = []
    model.routers[1].set_capture_fn(told.append)

    assert routers_of(model) == []
    assert ReachedExperts(model).end(0) is None
    model.routers[1].choose((1, 2))
    assert len(told) == 1
