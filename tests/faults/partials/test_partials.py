"""Whatever happens to workers, engines and Redis: each token is the seeds' own, and few are sampled twice."""

from __future__ import annotations

import random

import pytest

from rollstream import Client, GenerationConfig, GroupResult
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Keys
from tests.faults.partials.arena import FAULTS, Arena, FaultKind, Scale
from tests.support.partials.partial_steps import check_drawn
from tests.support.worker_process import wait_for

SMALL = Scale(
    prompts=8, samples=4, tokens=1000, tokens_per_s=150, workers=2, at_once=40, keep_s=0.5, faults=5, pause_s=0.8
)
"""A sample takes 6.7 s, and may lose 2.5 s: where no group is kept in time, some lose more."""
LARGE = Scale(
    prompts=250, samples=8, tokens=4000, tokens_per_s=100, workers=4, at_once=160, keep_s=5.0, faults=20, pause_s=4.0,
    lease_s=6.0,
)  # fmt: skip
SLACK_S = 2.0
"""A sample loses at most the period and this. The period is what is promised, of a worker that has its processor: on a
busy machine it notes a begin late, and is late with its next keep. What was lost is printed."""


def faults(number: int, seed: int) -> list[FaultKind]:
    """Each kind as often as the others, in a random order."""
    found = [FAULTS[place % len(FAULTS)] for place in range(number)]
    random.Random(seed).shuffle(found)
    return found


def check(scale: Scale, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    config = GenerationConfig(
        max_new_tokens=scale.tokens, num_return_sequences=scale.samples, seed=seed, ignore_eos=True
    )
    prompts = [[5 + row, 6] for row in range(scale.prompts)]
    with EmbeddedRedis(appendonly=True) as redis, Client(redis.url, policy="p", reconnect_s=60) as client:
        arena = Arena(redis, "p", scale, seed)
        with arena.serving():
            batch = client.submit(prompts, config=config, prompts_per_job=2)
            wait_for(lambda: has_parts(redis, batch.batch_id), 60, lambda: arena.log)
            arena.strike(faults(scale.faults, seed))
            groups = list(batch.groups(timeout=1200))
            results = [group for group in groups if isinstance(group, GroupResult)]
            left = has_parts(redis, batch.batch_id)
        account = arena.account(prompt_tokens=2)

    answered = scale.prompts * scale.samples * scale.tokens
    assert sorted(group.group for group in results) == list(range(scale.prompts)), arena.log
    assert sum(len(one) for group in results for one in group) == answered
    places = check_drawn(results, seed=seed, vocab_size=32_000)
    twice = [tokens for tokens in account.twice if tokens]
    with capsys.disabled():
        print(  # noqa: T201 - the numbers of the run
            f"\n{len(arena.done)} faults, {answered} tokens answered, {account.generated} sampled, "
            f"{sum(twice)} of these twice ({sum(twice) / answered:.2%}), at most "
            f"{max(twice, default=0) / scale.tokens_per_s:.2f} s of a sample; gone on {sum(map(len, places))} times"
        )
    may_lose = (scale.keep_s + SLACK_S) * scale.tokens_per_s
    assert 2 * may_lose < scale.tokens, "no sample could lose more"
    assert max(twice, default=0) <= may_lose
    assert sum(map(len, places)) > 0, "nothing was gone on from"
    assert not left, "parts stay after the last answer"


def has_parts(redis: EmbeddedRedis, batch_id: str) -> bool:
    import redis as blocking

    with blocking.Redis.from_url(redis.url) as connected:
        return bool(connected.exists(Keys("p").parts(batch_id)))


def test_every_token_is_the_seeds_own_and_few_are_sampled_twice(capsys: pytest.CaptureFixture[str]) -> None:
    check(SMALL, 11, capsys)


@pytest.mark.large
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
def test_the_same_over_two_thousand_long_completions(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    check(LARGE, seed, capsys)
