"""A worker that is told to end at once hands over what its completions have, and another goes on from each token."""

from __future__ import annotations

import re
import time
from datetime import datetime

import pytest

from rollstream import Client, GenerationConfig, GroupResult
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.faults.partials.arena import Arena, Scale
from tests.support.faults import Queue
from tests.support.partials.partial_steps import check_drawn, resumed_at
from tests.support.worker_process import wait_for

MOST_S = 15.0
"""A bound for busy machines. What it took is printed, and on an idle one it is less than a second."""
RUNNING = Scale(
    prompts=64, samples=1, tokens=600, tokens_per_s=200, workers=1, at_once=64, keep_s=1000, faults=1, pause_s=0
)
LONG = Scale(
    prompts=32, samples=8, tokens=12_000, tokens_per_s=3000, workers=1, at_once=256, keep_s=1000, faults=1, pause_s=0
)
"""256 sequences; what is handed over of each is as long as a chain of thought."""


def drain(
    scale: Scale, tokens: int, capsys: pytest.CaptureFixture[str], *, go_on: bool
) -> tuple[list[GroupResult], int]:
    """Drain the only worker once each completion has so many tokens. Returns the answers, and what was sampled."""
    config = GenerationConfig(max_new_tokens=scale.tokens, num_return_sequences=scale.samples, seed=3, ignore_eos=True)
    with EmbeddedRedis() as redis, Client(redis.url, policy="p") as client, Queue(redis.url, "p") as queue:
        arena = Arena(redis, "p", scale, seed=1)
        with arena.serving():
            batch = client.submit([[5 + row, 6] for row in range(scale.prompts)], config=config)
            wait_for(lambda: arena.begun() == scale.prompts, 30, lambda: arena.log)
            time.sleep(tokens / scale.tokens_per_s)

            ((worker, log),) = arena.workers.items()
            told_at = time.time()
            worker.terminate()
            assert worker.wait(2 * MOST_S) == 0

            found = re.search(r"running completions handed over.*", log.read_text())
            given_back = re.search(r"(\S+) \[info     \] gave back", log.read_text())
            assert found is not None, log.read_text()
            assert given_back is not None, log.read_text()
            took_s = datetime.fromisoformat(given_back[1]).timestamp() - told_at
            assert took_s < MOST_S
            nbytes = queue.redis.memory_usage(queue.keys.parts(batch.batch_id), samples=0)
            with capsys.disabled():
                print(f"\nempty after {took_s:.2f} s, {nbytes} bytes in Redis; {found[0]}")  # noqa: T201 - the numbers
            assert f"samples={scale.prompts * scale.samples}" in found[0]
            if not go_on:
                return [], 0
            arena.start()
            results = [group for group in batch.groups(timeout=60) if isinstance(group, GroupResult)]
        return results, arena.account(prompt_tokens=2).generated


def test_a_drained_worker_with_64_running_completions_is_empty_and_another_goes_on_with_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, sampled = drain(RUNNING, 200, capsys, go_on=True)

    answered = sum(len(one) for group in results for one in group)
    places = [place for group in results for place in resumed_at(group)]
    with capsys.disabled():
        print(f"{answered} tokens answered, {sampled} sampled: {sampled - answered} of them in vain")  # noqa: T201 - so
    assert check_drawn(results, vocab_size=32_000) == [[place] for place in places]
    assert (len(places), answered) == (64, 64 * RUNNING.tokens)
    assert min(places) >= 200
    assert sampled - answered < 64 * RUNNING.tokens_per_s * MOST_S / 10


@pytest.mark.large
def test_256_sequences_of_8000_tokens_are_handed_over(capsys: pytest.CaptureFixture[str]) -> None:
    drain(LONG, 8000, capsys, go_on=False)
