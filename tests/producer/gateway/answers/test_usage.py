"""`usage`: a prompt counts once, and cached tokens are summed where each prompt's are known, or not told at all."""

from __future__ import annotations

import pytest

from rollstream.producer.gateway.answers.usage import usage_of
from tests.support.answers import result_of


@pytest.mark.parametrize(
    ("cached", "told"), [([4, 0], {"cached_tokens": 4}), ([4, None], None), ([None], None), ([0], {"cached_tokens": 0})]
)
def test_cached_tokens_are_those_of_all_prompts_or_are_not_told(
    cached: list[int | None], told: dict[str, int] | None
) -> None:
    results = [
        result_of(group, [7, 8, 9], [[1], [2, 3]], "b").model_copy(update={"cached_tokens": tokens})
        for group, tokens in enumerate(cached)
    ]

    usage = usage_of(results)

    assert usage["prompt_tokens_details"] == told
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 * len(cached), 3 * len(cached))
