"""Real workers that end, or whose engine does: greedy completions are as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from rollstream import Client, GenerationConfig, GroupResult
from rollstream.producer.blocking_client import BlockingBatchHandle
from rollstream.worker.exit_codes import EXIT_DRAINED, EXIT_ENGINE_DIED
from tests.support.engine.engine_requests import ATOL
from tests.support.faults import Queue
from tests.support.partials.partial_steps import resumed_at
from tests.support.worker_process import WorkerProcess, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(900)]

TOKENS = 900
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]
GREEDY = GenerationConfig(max_new_tokens=TOKENS, temperature=0, ignore_eos=True, top_logprobs=4)
SAMPLED = GenerationConfig(max_new_tokens=TOKENS, num_return_sequences=2, seed=5, ignore_eos=True)


class Pair:
    """Two real workers; one that a test ends is replaced."""

    def __init__(self, url: str, policy: str, model: Path, adapters: Path) -> None:
        flags = [
            "--model", str(model), "--dtype", "float32", "--adapter-dir", str(adapters), "--max-num-seqs", "16",
            "--max-model-len", "1024", "--kv-cache-bytes", str(64 * 2**20), "--lease-s", "3", "--grace-s", "0",
            "--keep-partials", "0.5",
        ]  # fmt: skip
        self._make: Callable[[], WorkerProcess] = lambda: WorkerProcess(url, policy, *flags)
        self.workers: list[WorkerProcess] = []

    def serve(self) -> None:
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        started = [self._make() for _ in range(2 - len(self.workers))]
        self.workers += started
        for worker in started:
            worker.wait_until_serving(240)


@pytest.fixture
def pair(redis_url: str, policy: str, tiny_model: Path, adapter_dir: Path) -> Iterator[Pair]:
    pair = Pair(redis_url, policy, tiny_model, adapter_dir)
    pair.serve()
    yield pair
    for worker in pair.workers:
        worker.end()


def submitted(client: Client) -> list[BlockingBatchHandle]:
    """One batch of each kind: greedy with candidates, greedy with an adapter, sampled."""
    greedy = client.submit(PROMPTS, config=GREEDY, prompts_per_job=4)
    adapted = client.submit(PROMPTS, config=GREEDY, prompts_per_job=4, adapter="math@1")
    return [greedy, adapted, client.submit(PROMPTS, config=SAMPLED, prompts_per_job=4)]


def answers(batches: list[BlockingBatchHandle]) -> list[list[GroupResult]]:
    found = [list(batch.groups(timeout=300)) for batch in batches]
    results = [[group for group in groups if isinstance(group, GroupResult)] for groups in found]
    assert results == found, "errors among the answers"
    return [sorted(groups, key=lambda group: group.group) for groups in results]


def check(undisturbed: list[list[GroupResult]], disturbed: list[list[GroupResult]]) -> int:
    """Whether all is as it should be; returns how many completions were gone on with."""
    for before, after in zip(undisturbed[:2], disturbed[:2], strict=True):
        for one, other in zip(before, after, strict=True):
            assert one.token_ids == other.token_ids
            for name in ("logprobs", "top_logprobs"):
                np.testing.assert_allclose(getattr(one, name).numpy(), getattr(other, name).numpy(), atol=ATOL, rtol=0)
    places = 0
    for groups, first in zip(disturbed, undisturbed, strict=True):
        for group, undisturbed_group in zip(groups, first, strict=True):
            assert group.spans_exact
            assert {one.version_spans for one in group} == {((0, TOKENS),)}
            for row, place in enumerate(resumed_at(group)):
                mine, its = (each.token_ids.numpy()[row, :place] for each in (group, undisturbed_group))
                assert mine.tolist() == its.tolist(), "what it had is what its seed gives"
                assert place < TOKENS or group.lengths.numpy()[row] == place
                places += place > 0
    return places


def kill(worker: WorkerProcess) -> None:
    """As the kernel does when memory runs out."""
    worker.process.kill()


def drain(worker: WorkerProcess) -> None:
    worker.process.terminate()


def kill_engine(worker: WorkerProcess) -> None:
    """vLLM's own process alone: the worker ends by itself, and hands over what had arrived."""
    children = psutil.Process(worker.process.pid).children(recursive=True)
    max(children, key=lambda child: child.memory_info().rss).kill()  # the other one only tracks shared memory


@pytest.mark.parametrize(
    ("strike", "code"),
    [(kill, -signal.SIGKILL), (drain, EXIT_DRAINED), (kill_engine, EXIT_ENGINE_DIED)],
    ids=["killed", "drained", "engine killed"],
)
def test_greedy_completions_of_workers_that_end_are_as_if_nothing_had_happened(
    pair: Pair,
    client: Client,
    queue: Queue,
    strike: Callable[[WorkerProcess], None],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed = answers(submitted(client))
    batches = submitted(client)
    keys = [queue.keys.parts(batch.batch_id) for batch in batches]
    wait_for(lambda: all(queue.redis.exists(key) for key in keys), 60, lambda: pair.workers[0].log)

    holders = {holder.consumer for holder in queue.holders().values()}
    struck = next(one for one in pair.workers if any(f"-{one.process.pid}-" in name for name in holders))
    strike(struck)
    disturbed = answers(batches)

    places = check(undisturbed, disturbed)
    with capsys.disabled():
        print(f"\n{strike.__name__}: {places} of 16 completions gone on with")  # noqa: T201 - the numbers of the run
    assert places > 0
    assert struck.process.wait(60) == code
    assert ("running completions handed over" in struck.log) == (strike is not kill)
