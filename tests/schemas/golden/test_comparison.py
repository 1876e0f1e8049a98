"""What two engines may differ in, and what they may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import GenerationConfig, Golden, Tolerance
from rollstream.schemas.golden.comparison import Comparison, Now, Outcome, compare, tolerance_of
from rollstream.schemas.golden.origin import other_model
from tests.support.weights.golden_jobs import GREEDY, SEEDED, golden, golden_batch

IDS = tuple(range(10, 26))
"""16 tokens."""
KNOWN = (-1.0,) * 16


def now(
    ids: Sequence[int] = IDS, logprobs: Sequence[float] | None = None, scored: Sequence[float] | None = None
) -> Now:
    """By default as recorded."""
    given = (-1.0,) * len(ids) if logprobs is None else logprobs
    return Now(
        token_ids=np.array(ids, np.int32),
        logprobs=np.array(given, np.float32),
        scored=None if scored is None else np.array(scored, np.float32),
    )


def one(config: GenerationConfig = GREEDY, **fields: Any) -> Golden:
    """One case of 16 tokens."""
    return golden(golden_batch(config, [(IDS, KNOWN)]), **fields)


def with_token(ids: Sequence[int], at: int, token: int) -> tuple[int, ...]:
    return (*ids[:at], token, *ids[at + 1 :])


def moved(at: int, by: float) -> tuple[float, ...]:
    return tuple(-1.0 + by * (position == at) for position in range(16))


def outcome(found: Comparison) -> tuple[Outcome, bool]:
    (finding,) = found.findings
    return finding.outcome, not found.problem


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (now(), Outcome.EQUAL),
        (now(scored=KNOWN), Outcome.EQUAL),
        (now(logprobs=moved(3, 0.01)), Outcome.EQUAL),
        (now(scored=moved(3, -0.01)), Outcome.EQUAL),
        (now(logprobs=moved(3, 0.06)), Outcome.OFF),
        (now(scored=moved(3, -0.06)), Outcome.OFF),
        (now(logprobs=[-1.003] * 16), Outcome.OFF),
        (now(scored=[-1.003] * 16), Outcome.OFF),
        (now(logprobs=moved(3, float("nan"))), Outcome.OFF),
        (now(scored=moved(3, float("nan"))), Outcome.OFF),
        (now(scored=moved(15, float("-inf"))), Outcome.OFF),
        (now(with_token(IDS, 5, 99)), Outcome.DIVERGED),
        (now(with_token(IDS, 5, 99), moved(5, 0.06)), Outcome.OFF),
        (now(with_token(IDS, 5, 99), moved(9, -5)), Outcome.DIVERGED),
        (now(with_token(IDS, 0, 99)), Outcome.DIVERGED),
        (now(with_token(IDS, 5, 99), moved(5, 0.06), moved(5, 0.03)), Outcome.DIVERGED),
        (now(with_token(IDS, 5, 99), moved(5, 0.04), moved(5, -0.04)), Outcome.OFF),
        (now(IDS[:9]), Outcome.OFF),
        (now((*IDS, 7)), Outcome.OFF),
        (now(()), Outcome.OFF),
        (Now(token_ids=np.array(IDS, np.int32), logprobs=None), Outcome.OFF),
    ],
)
def test_a_greedy_completion_is_equal_parts_at_a_near_tie_or_is_off(given: Now, expected: Outcome) -> None:
    found = compare(one(), [[given]], "float32")

    assert outcome(found) == (expected, expected is not Outcome.OFF)


def test_what_is_off_is_named_with_its_place_and_its_numbers() -> None:
    found = compare(one(), [[now(scored=moved(3, -2))]], "float32")

    told = "case 0 (batch 0, row 0), sample 0: token 3 (id 13) has log-prob -1.0000 in the file, -3.0000 scored now"
    assert found.problem == f"{told}: 2 nats apart, 0.05 allowed"
    assert (found.findings[0].largest, found.findings[0].agreed) == (2.0, 16)


def test_a_case_without_an_answer_is_off_with_the_reason() -> None:
    found = compare(one(), ["engine_refused: no"], "float32")

    assert found.problem == "case 0 (batch 0, row 0): engine_refused: no"
    assert compare(one(), [[]], "float32").problem == "case 0 (batch 0, row 0): 0 completions of 1"


def seeded(parts_at: Sequence[int | None]) -> Comparison:
    """As many seeded completions of 16 tokens as there are places, each with another token at its place."""
    whole = golden(golden_batch(SEEDED, [(IDS, KNOWN)] * len(parts_at)))
    given = [[now() if at is None else now(with_token(IDS, at, 99), moved(at, -4))] for at in parts_at]
    return compare(whole, given, "float32")


def test_a_few_seeded_completions_may_part_however_unlike_the_tokens() -> None:
    found = seeded([3, None, None, None])

    assert (found.problem, found.diverged) == ("", 1)


@pytest.mark.parametrize("parts_at", [[0, 0, 0, 0], [3, 5, 2, 9], [0]])
def test_seeds_that_sample_other_tokens_are_off(parts_at: list[int | None]) -> None:
    found = seeded(parts_at)

    assert "seeded completions differ" in found.problem
    assert "seeds sample other tokens here" in found.problem


def test_a_coarser_dtype_on_either_side_allows_more() -> None:
    apart = [[now(logprobs=[-1.05] * 16)]]

    assert compare(one(), apart, "bfloat16").problem == ""
    assert compare(one(dtype="bfloat16"), apart, "float32").problem == ""
    assert compare(one(dtype="float8"), apart, "float32").problem != ""
    assert compare(one(), apart, "float32").problem != ""


def test_a_tolerance_in_the_file_wins() -> None:
    own = one(tolerance=Tolerance(mean=1e-4, largest=1e-3), dtype="bfloat16")

    assert tolerance_of(own, "bfloat16").largest == 1e-3
    assert compare(own, [[now(logprobs=moved(3, 0.002))]], "bfloat16").problem != ""


@pytest.mark.parametrize(
    ("config", "is_off"),
    [
        ({"temperature": 0.5, "seed": 1}, False),
        ({"temperature": 0.5, "seed": 1, "logprobs": "raw"}, True),
        ({"top_p": 0.9, "seed": 1}, False),
        ({"seed": 1}, True),
        ({"temperature": 0.0, "min_new_tokens": 2}, False),
        ({"temperature": 0.0}, True),
    ],
)
def test_log_probs_under_a_reshaped_distribution_are_not_compared_with_scored_ones(
    config: dict[str, Any], is_off: bool
) -> None:
    reshaped = one(GenerationConfig(max_new_tokens=64, **config))

    found = compare(reshaped, [[now(scored=[-3.0] * 16)]], "float32")

    assert bool(found.problem) == is_off


def test_processed_log_probs_at_half_the_temperature_may_be_twice_as_far_apart() -> None:
    half = one(GenerationConfig(max_new_tokens=64, temperature=0.5, seed=1))

    assert compare(half, [[now(logprobs=moved(3, 0.06))]], "float32").problem == ""
    assert compare(half, [[now(logprobs=moved(3, 0.12))]], "float32").problem != ""


def test_many_short_completions_are_off_together() -> None:
    short = golden(golden_batch(GREEDY, [(IDS[:4], KNOWN[:4])] * 4))

    found = compare(short, [[now(IDS[:4], [-1.01] * 4)]] * 4, "float32")

    assert found.problem.startswith("log-probs of all 16 tokens are off on average: 0.01 nats apart")


def test_another_model_is_known_by_its_name_or_its_vocabulary() -> None:
    assert other_model(one(), model="m", vocab_size=100) == ""
    assert "'m', this one is 'n'" in other_model(one(), model="n", vocab_size=100)
    assert "100 ids, this one 50" in other_model(one(), model="m", vocab_size=50)
