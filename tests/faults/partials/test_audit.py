"""The audit takes what the seeds give, wherever a sample was gone on from, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from rollstream.worker.jobs.seeds import rest_seed
from tests.support.engine.stub_rule import breaks_of, drawn

PROMPT, SEED, VOCAB, LENGTH = [5, 6], 40, 32_000, 100


def sampled(*places: int, seed: int = SEED) -> list[int]:
    """A sample that was gone on from at these places."""
    tokens: list[int] = []
    for place, until in pairwise((0, *places, LENGTH)):
        of_piece = rest_seed(seed, place) if place else seed
        tokens += drawn([*PROMPT, *tokens], of_piece, until - place, vocab_size=VOCAB).tolist()
    return tokens


def breaks(tokens: Sequence[int]) -> list[int] | None:
    return breaks_of(PROMPT, SEED, tokens, vocab_size=VOCAB)


@pytest.mark.parametrize(
    "places", [[], [1], [40], [99], [39, 46], [39, 40], [39, 41], [20, 21, 22, 23], [98, 99]], ids=str
)
def test_it_tells_where_a_sample_was_gone_on_from(places: list[int]) -> None:
    assert breaks(sampled(*places)) == places


WRONG: dict[str, Callable[[], list[int]]] = {
    "another token": lambda: [*sampled(40)[:60], 7, *sampled(40)[61:]],
    "a token is lost": lambda: [*sampled(40)[:60], *sampled(40)[61:]],
    "a token is there twice": lambda: [*sampled(40)[:60], *sampled(40)[59:]],
    "a token is lost where it was gone on from": lambda: [*sampled(40)[:39], *sampled(40)[40:]],
    "the rest of another delivery": lambda: [*sampled(40)[:60], *sampled(50)[60:]],
    "the rest of another sample": lambda: [*sampled()[:60], *sampled(seed=41)[60:]],
    "the last token is another": lambda: [*sampled(40)[:99], 7],
}


@pytest.mark.parametrize("tokens", WRONG.values(), ids=WRONG)
def test_it_refuses_tokens_that_no_seed_gives(tokens: Callable[[], list[int]]) -> None:
    assert breaks(tokens()) is None
