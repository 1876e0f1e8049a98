"""vLLM behind a Redis that speaks TLS and asks for certificates: a checkpoint is swapped in, and an adapter comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig, RolloutBatch
from rollstream.transport.redis.access import RedisAccess
from tests.support.engine.real_workers import START_TIMEOUT_S
from tests.support.engine.transformers_reference import Reference
from tests.support.redis_access.certificates import Authority
from tests.support.redis_access.main_path import set_variables
from tests.support.redis_access.tls_redis import TlsRedis
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.large]

PROMPT = [5, 6, 7, 8]
GREEDY = GenerationConfig(max_new_tokens=8, temperature=0, ignore_eos=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsRedis]:
    authority = Authority(tmp_path)
    with TlsRedis(authority, authority.pair("server")) as server:
        yield server


def assert_is_of(batch: RolloutBatch, reference: Reference) -> None:
    """The log-probs of the completion are those of these weights."""
    assert batch.errors == {}
    assert batch.old_log_probs is not None
    expected = reference.logprobs(PROMPT, batch.responses[0])
    assert batch.old_log_probs[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_vllm_swaps_a_checkpoint_and_takes_an_adapter_over_tls(
    server: TlsRedis, policy: str, models: Path, adapter_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access: RedisAccess = server.access(server.authority.pair("me"), "localhost")
    set_variables(access, monkeypatch)
    flags = ["--redis", access.url, "--model", str(models / "step-1"), "--dtype", "float32", "--checkpoint-dir",
             str(models), "--lora", "--adapter-cache", str(tmp_path / "cache"), "--max-num-seqs", "16"]  # fmt: skip
    worker = WorkerProcess(server.url, policy, *flags)
    try:
        worker.wait_until_serving(START_TIMEOUT_S)
        with Client(access, policy=policy) as client:
            before = client.generate([PROMPT], None, GREEDY, timeout=60)
            client.publish_policy(1, checkpoint=models / "step-2")
            client.wait_for_version(1, timeout=60)
            after = client.generate([PROMPT], None, GREEDY, min_policy_version=1, timeout=60)
            name = client.publish_adapter("math", 1, adapter_dir / "math@1")
            adapted = client.generate([PROMPT], None, GREEDY, adapter=name, timeout=60)
        code = worker.terminate()
    finally:
        worker.end()

    assert_is_of(before, Reference(models / "step-1"))
    assert_is_of(after, Reference(models / "step-2"))
    assert_is_of(adapted, Reference(models / "step-2", adapter_dir / "math@1"))
    assert code == 0
