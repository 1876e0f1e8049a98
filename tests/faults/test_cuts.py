"""Cuts at any moment, twice, beside publishes, cancels and dying workers: each group is answered once."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rollstream import Client, GenerationConfig, GroupError
from tests.support.fault_steps import kill, log_of, stub_flags, stubs
from tests.support.faults import Queue, audit
from tests.support.weights.versions import wait_until_reported
from tests.support.worker_process import wait_for

BATCHES, GROUPS = 24, 12
CONFIG = GenerationConfig(max_new_tokens=16, num_return_sequences=4, eos_token_id=(2,), first_k=3)


@pytest.mark.large
def test_whatever_is_cut_and_whenever_each_group_is_answered_once(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    chance = random.Random(18)
    flags = [*stub_flags(at_once=48), "--stub-long-tail", "samples", "--stub-tokens-per-s", "40"]
    with stubs(redis_url, policy, *flags, "--keep-partials", "0.05", count=3) as (doomed, *others):
        options: list[dict[str, Any]] = [{"first_groups": chance.choice([None, 3, 9])} for _ in range(BATCHES)]
        handles = [
            client.submit([[7 + n] for n in range(GROUPS)], None, CONFIG, prompts_per_job=4, **option)
            for option in options
        ]
        over = threading.Event()

        def cut_now_and_then(seed: int) -> None:
            random_ = random.Random(seed)
            while not over.is_set():
                handle = random_.choice(handles)
                if random_.random() < 0.05:
                    handle.cancel()
                else:
                    handle.cancel(groups=random_.sample(range(GROUPS), 2))
                time.sleep(random_.random() / 20)

        with ThreadPoolExecutor(3) as cutters:
            cutting = [cutters.submit(cut_now_and_then, seed) for seed in range(3)]
            wait_for(lambda: queue.done(handles[0].batch_id) > 0, 30, lambda: log_of(doomed, *others))
            kill(doomed)
            for handle in handles:
                handle.wait(timeout=60)
            over.set()
            assert [each.result() for each in cutting] == [None] * 3
        wait_for(lambda: not queue.holders(), 30, lambda: log_of(*others))
        for worker in others:
            wait_until_reported(worker, queue, held_jobs="0", running_sequences="0", waiting_groups="0")

    for handle in handles:
        for answer in audit(redis_url, policy, handle.batch_id, GROUPS):
            if isinstance(answer, GroupError):
                assert answer.code in {"not_needed", "cancelled"}
            else:
                assert len(answer) == 3
        assert not queue.redis.exists(queue.keys.parts(handle.batch_id)), "parts of groups that have an answer"
