"""What no router can have chosen is found wherever it is; a row's routing is of one completion."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rollstream.schemas import RoutedExperts
from rollstream.schemas.wire.routing import RoutingShape, RowRouting, why_not_chosen

SHAPE = RoutingShape(layers=2, k=4, experts=8, dense=(0,))


def rows() -> Any:
    """Two rows of a dense layer and one that goes to four experts."""
    return np.array([[[0, 0, 0, 0], [7, 1, 2, 3]]] * 2, np.uint8)


@pytest.mark.parametrize(("one", "other"), list(combinations(range(4), 2)))
def test_an_expert_that_a_row_names_twice_is_found_at_any_two_places(one: int, other: int) -> None:
    routing = rows()
    routing[1, 1, other] = routing[1, 1, one]

    assert why_not_chosen(routing, SHAPE) == f"row 1 names expert {routing[1, 1, one]} twice in a layer"


def test_rows_of_different_experts_are_a_routers() -> None:
    assert why_not_chosen(rows(), SHAPE) == ""


def test_a_row_has_the_routing_of_one_completion() -> None:
    told = RoutedExperts(dtype="uint8", layers=2, k=4, experts=8, rows=(3, 5), sha256=("a" * 64, "b" * 64))

    assert (told.alone(1).rows, told.alone(1).sha256) == ((5,), ("b" * 64,))
    with pytest.raises(ValidationError, match="of 2 completions, and a row has one"):
        RowRouting(batch_id="b", group=0, completion=0, experts=told)
