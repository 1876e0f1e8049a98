"""A completion with a token that its config forbids is refused by the option that forbids it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.engines.forbidden import check_allowed
from rollstream.worker.errors import DataError
from rollstream.worker.requests import GenerateRequest


def check(tokens: list[int], stops: tuple[int, ...] = (2,), bad: tuple[list[int], ...] = (), **fields: Any) -> None:
    config = GenerationConfig(max_new_tokens=8, **fields)
    check_allowed(
        np.array(tokens, np.int32),
        GenerateRequest(request_id="a/0", prompt=[5], config=config, stop_token_ids=stops, seed=None, adapter=None),
        bad,
    )


@pytest.mark.parametrize(
    ("tokens", "options", "field"),
    [
        ([10, 11, 0], {"allowed_token_ids": (10, 11)}, "allowed_token_ids"),
        ([10, 2], {"min_new_tokens": 2}, "min_new_tokens"),
        ([10, 3], {"min_new_tokens": 3, "stops": (2, 3)}, "min_new_tokens"),
        ([7, 8], {"bad": ([8],)}, "bad_words"),
        ([7, 8, 9], {"bad": ([1, 1], [8, 9])}, "bad_words"),
        ([7, 7], {"bad": ([7, 7],)}, "bad_words"),
    ],
)
def test_a_forbidden_token_is_refused(tokens: list[int], options: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=f"nothing was left to sample at token {len(tokens) - 1}") as caught:
        check(tokens, **options)

    assert (caught.value.code, caught.value.field) == (ErrorCode.ENGINE_REFUSED, field)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        ([10, 11, 0], {}),
        ([], {"allowed_token_ids": (10,), "bad": ([8],)}),
        ([10, 11, 10], {"allowed_token_ids": (10, 11)}),
        ([10, 11, 2], {"min_new_tokens": 2}),
        ([10, 2], {"min_new_tokens": 2, "stops": ()}),
        ([8, 7, 9], {"bad": ([8, 9], [9, 8])}),
        ([8], {"bad": ([8, 8],)}),
    ],
)
def test_what_is_allowed_passes(tokens: list[int], options: dict[str, Any]) -> None:
    check(tokens, **options)
