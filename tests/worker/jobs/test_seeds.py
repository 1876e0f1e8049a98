"""Seeds of prompts: fixed for ever, spread, and within what an engine stores."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollstream.schemas.generation.generation_config import MAX_SEED
from rollstream.worker.jobs.seeds import prompt_seed


@pytest.mark.parametrize(
    ("batch_seed", "row", "seed"),
    [
        (0, 0, 3_524_858_369_024_619_816),
        (0, 1, 7_911_326_700_966_646_030),
        (1, 0, 3_622_492_008_784_162_871),
        (MAX_SEED - 1, 2**31 - 1, 1_929_074_680_840_454_522),
    ],
)
def test_the_seed_of_a_prompt_never_changes(batch_seed: int, row: int, seed: int) -> None:
    assert prompt_seed(batch_seed, row) == seed


@given(st.integers(0, MAX_SEED - 1), st.integers(0, 2**31 - 1))
def test_a_seed_and_those_of_its_samples_fit_an_engine(batch_seed: int, row: int) -> None:
    assert 0 <= prompt_seed(batch_seed, row) < MAX_SEED


def test_neighbouring_rows_and_batches_share_no_sample() -> None:
    seeds = sorted(prompt_seed(batch, row) for batch in range(30) for row in range(100))

    assert min(after - before for before, after in itertools.pairwise(seeds)) > 1024
