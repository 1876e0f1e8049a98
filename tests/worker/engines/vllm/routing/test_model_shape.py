"""What the routing of a model looks like, under each name that configs have for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.schemas.wire.routing import RoutingShape
from rollstream.worker.engines.vllm.routing.model_shape import is_mixture, shape_of

QWEN = {"num_hidden_layers": 4, "num_experts": 128, "num_experts_per_tok": 8}


@pytest.mark.parametrize(
    ("config", "mixes"),
    [
        (QWEN, True),
        ({"num_local_experts": 8, "num_experts_per_tok": 2}, True),
        ({"n_routed_experts": 256, "num_experts_per_tok": 8}, True),
        ({"text_config": {"num_experts": 128, "top_k_experts": 4}}, True),
        ({"num_hidden_layers": 4}, False),
        ({"num_experts": 0, "num_experts_per_tok": 8}, False),
        ({"n_routed_experts": None, "num_experts_per_tok": 8}, False),
        ([], False),
    ],
)
def test_a_mixture_is_known_by_its_config(tmp_path: Path, config: Any, mixes: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert is_mixture(tmp_path) is mixes


def test_a_folder_without_a_readable_config_is_no_mixture(tmp_path: Path) -> None:
    assert not is_mixture(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert not is_mixture(tmp_path)


def test_layers_without_routers_are_told(tmp_path: Path) -> None:
    found = shape_of(SimpleNamespace(**QWEN), [1, 3])

    assert found == RoutingShape(layers=4, k=8, experts=128, dense=(0, 2))


@pytest.mark.parametrize(
    ("changes", "layers"), [({}, []), ({}, [4]), ({"num_experts": 4}, [0]), ({"num_experts": None}, [0])]
)
def test_a_config_that_does_not_fit_the_layers_has_no_shape(changes: dict[str, Any], layers: list[int]) -> None:
    assert shape_of(SimpleNamespace(**{**QWEN, **changes}), layers) is None
