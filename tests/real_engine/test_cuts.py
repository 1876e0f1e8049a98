"""Groups that are cut leave vLLM at once; the others are sampled as if nobody had cut anything."""

from __future__ import annotations

import pytest

from rollstream import Client, ErrorCode, GenerationConfig, GroupResult
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.faults import Queue
from tests.support.weights.versions import wait_until_reported
from tests.support.worker_process import wait_for

pytestmark = pytest.mark.vllm

CUT = "groups cut, their engine requests are aborted"
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
CONFIG = GenerationConfig(max_new_tokens=600, num_return_sequences=4, seed=3, ignore_eos=True)


def test_a_group_that_is_cut_leaves_the_engine_and_the_others_have_the_tokens_of_an_undisturbed_run(
    redis_url: str, real_workers: RealWorkers
) -> None:
    workers = real_workers.serving()  # any of them may take the job

    def told(what: str) -> int:
        return sum(worker.log.count(what) for worker in workers)

    def logs() -> str:
        return "\n".join(worker.log for worker in workers)

    with Client(redis_url, policy=REAL_POLICY) as client, Queue(redis_url, REAL_POLICY) as queue:
        undisturbed = client.submit(PROMPTS, None, CONFIG, prompts_per_job=3).wait(90)

        started, cut = told("job started"), told(CUT)
        handle = client.submit(PROMPTS, None, CONFIG, prompts_per_job=3)
        wait_for(lambda: told("job started") > started, 30, logs)  # all three groups
        assert handle.cancel(groups=[1]) == 1
        wait_for(lambda: told(CUT) > cut, 10, logs)
        answers = handle.wait(90)
        for worker in workers:
            wait_until_reported(worker, queue, running_sequences="0", held_jobs="0")

    assert getattr(answers[1], "code", None) == ErrorCode.NOT_NEEDED
    for group in (0, 2):
        one, alone = answers[group], undisturbed[group]
        assert isinstance(one, GroupResult)
        assert isinstance(alone, GroupResult)
        assert one.token_ids.tolist() == alone.token_ids.tolist()
        assert one.delivery == 1
