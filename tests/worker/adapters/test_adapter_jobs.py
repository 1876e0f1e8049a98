"""Jobs on a worker name adapters that came through Redis: used, kept while they run, or refused by reason."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rollstream import Client
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import AdapterManifest, GroupResult, decode
from tests.support.fault_steps import stub, tokens, wait_until_done, wait_until_held, wait_until_logged
from tests.support.faults import Queue, audit
from tests.support.weights.versions import (
    announce,
    codes,
    report,
    spans,
    wait_until_refused,
    wait_until_reported,
    wait_until_serves,
    write_steps,
)
from tests.support.worker_process import wait_for


def test_a_job_uses_an_adapter_that_came_through_redis(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(tiny_model), "--adapter-cache", str(tmp_path / "cache"))
    with stub(redis_url, policy, *flags) as worker:
        (folder,) = (tmp_path / "cache").iterdir()
        name = client.publish_adapter("math", 1, adapter_dir / "math@1")
        batch = client.submit([[5 + row] for row in range(6)], None, tokens(), adapter=name, prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 6, worker)
        plain = client.submit([[5]], None, tokens())
        wait_until_done(queue, plain.batch_id, 1, worker)
        unknown = client.submit([[5]], None, tokens(), adapter="math@2")
        wait_until_done(queue, unknown.batch_id, 1, worker)
        assert worker.log.count("adapter fetched") == 1

    answers = audit(redis_url, policy, batch.batch_id, 6)
    assert {answer.adapter for answer in answers if isinstance(answer, GroupResult)} == {"math@1"}
    assert not folder.exists()
    assert codes(redis_url, queue, unknown.batch_id, 1) == ["unknown_adapter"]


def test_an_adapter_that_cannot_be_used_is_refused_by_reason_and_the_worker_serves_on(
    redis_url: str, policy: str, client: Client, queue: Queue, tiny_model: Path, tmp_path: Path
) -> None:
    def publish(name: str, rank: int = 8) -> AdapterManifest:
        folder = write_adapter(tmp_path / name, "a@1", model=tiny_model, seed=1, rank=rank)
        full = client.publish_adapter(name, 1, folder)
        return decode(cast("bytes", queue.redis.get(queue.keys.adapter(full))), AdapterManifest)

    flags = ("--lora", "--model", str(tiny_model), "--max-adapter-bytes", "300000", "--max-lora-rank", "32")
    with stub(redis_url, policy, *flags) as worker:
        tampered = queue.keys.blob(publish("tampered").sha256, 0)
        chunk = cast("bytes", queue.redis.get(tampered))
        queue.redis.set(tampered, chunk[:-1] + bytes([chunk[-1] ^ 1]))
        publish("large", rank=32)
        other = write_adapter(tmp_path / "other", "a@1", model=tiny_model, seed=1)
        weights = other / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(b"layers.1.", b"layers.7."))
        client.publish_adapter("other", 1, other)
        refused = {
            name: client.submit([[5]], None, tokens(), adapter=f"{name}@1") for name in ("tampered", "large", "other")
        }
        for batch in refused.values():
            wait_until_done(queue, batch.batch_id, 1, worker)
        queue.redis.delete(tampered, queue.keys.adapter("tampered@1"))
        publish("tampered")
        again = client.submit([[5]], None, tokens(), adapter="tampered@1")
        wait_until_done(queue, again.batch_id, 1, worker)
        assert codes(redis_url, queue, again.batch_id, 1) == [None]

    for name, says in {"tampered": "digest", "large": "--max-adapter-bytes", "other": "does not have"}.items():
        (answer,) = audit(redis_url, policy, refused[name].batch_id, 1)
        assert (getattr(answer, "code", None), says in getattr(answer, "message", "")) == ("adapter_refused", True)


def test_the_adapter_of_a_running_job_outlasts_those_that_come_after_it(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def fetched() -> set[str]:
        return {path.parent.name.rpartition(".")[0] for path in tmp_path.glob("*/*/adapter_config.json")}

    size = sum(path.stat().st_size for path in (adapter_dir / "math@1").iterdir())
    bounds = ("--max-adapter-bytes", str(size), "--adapter-cache-bytes", str(size + 1000))
    names = [client.publish_adapter("math", version, adapter_dir / "math@1") for version in (1, 2, 3)]
    flags = ("--adapter-cache", str(tmp_path), "--model", str(tiny_model), *bounds)
    with stub(redis_url, policy, *flags, group_s=0.1, lease_s=30) as worker:
        long = client.submit([[5]], None, tokens(200), adapter=names[0])
        wait_for(lambda: fetched() == {names[0]}, 30, lambda: worker.log)
        for name, left in zip(names[1:], ({names[0], names[1]}, {names[0], names[2]}), strict=True):
            short = client.submit([[5]], None, tokens(1), adapter=name)
            wait_until_done(queue, short.batch_id, 1, worker)
            assert fetched() == left
        assert queue.done(long.batch_id) == 0, "the job was over before the others came"
        wait_until_done(queue, long.batch_id, 1, worker)


def test_a_worker_without_lora_says_how_to_get_it(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path
) -> None:
    name = client.publish_adapter("math", 1, adapter_dir / "math@1")
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), adapter=name)
        wait_until_done(queue, batch.batch_id, 1, worker)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert "--lora" in getattr(answer, "message", "")


def test_a_policy_published_as_adapters_changes_what_starts_and_not_what_runs(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path
) -> None:
    flags = ("--lora", "--model", str(tiny_model))
    with stub(redis_url, policy, *flags, group_s=0.1, lease_s=30) as worker:
        booted = client.submit([[5]], None, tokens(100))
        wait_until_held(worker, queue)
        client.publish_policy(1, adapter=adapter_dir / "math@1")
        client.wait_for_version(1, timeout=30)
        first = client.submit([[5]], None, tokens(150))
        wait_until_logged(worker, f"job started                    batch={first.batch_id}")
        client.publish_policy(2, adapter=adapter_dir / "math@2")
        client.wait_for_version(2, timeout=30)
        assert queue.done(first.batch_id) == 0, "it did not live through the change"
        second = client.submit([[5]], None, tokens(150))
        own = client.submit([[5]], None, tokens(), adapter=client.publish_adapter("own", 1, adapter_dir / "code@1"))
        for batch in (booted, first, second, own):
            wait_until_done(queue, batch.batch_id, 1, worker)

    assert spans(redis_url, queue, booted.batch_id, 1) == [((0, 100),)]
    assert spans(redis_url, queue, first.batch_id, 1) == [((1, 150),)]
    assert spans(redis_url, queue, second.batch_id, 1) == [((2, 150),)]
    assert spans(redis_url, queue, own.batch_id, 1) == [((0, 10),)]
    sampled = [audit(redis_url, policy, batch.batch_id, 1)[0] for batch in (first, second)]
    ids = [answer.token_ids.numpy().tolist() for answer in sampled if isinstance(answer, GroupResult)]
    assert ids[0] != ids[1]


def test_a_policys_adapter_is_kept_while_it_is_served_and_loaded_by_a_late_worker(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in (adapter_dir / "math@1").iterdir())
    bounds = ("--max-adapter-bytes", str(size), "--adapter-cache-bytes", str(size + 1000))
    client.publish_policy(1, adapter=adapter_dir / "math@1")
    with stub(redis_url, policy, "--adapter-cache", str(tmp_path), "--model", str(tiny_model), *bounds) as worker:
        assert report(worker, queue)["policy_version"] == "1"
        for version in (1, 2):
            other = client.publish_adapter("other", version, adapter_dir / "code@1")
            batch = client.submit([[5]], None, tokens(), adapter=other)
            wait_until_done(queue, batch.batch_id, 1, worker)
        names = {path.parent.name.partition("@")[0] for path in tmp_path.glob("*/*/adapter_config.json")}
        assert len(names) == 2, "the other adapters were not evicted"
        assert any(name.startswith("policy.") for name in names), "the served policy was evicted"


def test_a_policys_adapter_that_is_not_what_was_announced_is_refused(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    steps = write_steps(tmp_path, 1)
    name = client.publish_adapter("math", 1, adapter_dir / "math@1")
    sha256 = decode(cast("bytes", queue.redis.get(queue.keys.adapter(name))), AdapterManifest).sha256
    flags = ("--lora", "--model", str(tiny_model), "--checkpoint-dir", str(steps))
    with stub(redis_url, policy, *flags) as worker:
        announce(queue, 1, "math@1", "ab" * 32, source="adapter")
        wait_until_refused(worker, queue, 1, "not what the policy version was announced with")
        announce(queue, 2, "../math@1", sha256, source="adapter")
        wait_until_refused(worker, queue, 2, "'../math@1': nobody published it")
        announce(queue, 3, "nobody@3", sha256, source="adapter")
        wait_until_refused(worker, queue, 3, "nobody published it")
        announce(queue, 4, "math@1", sha256, source="adapter")
        wait_until_serves(worker, queue, 4)
        announce(queue, 5, "step-1")  # which no producer does
        wait_until_refused(worker, queue, 5, "publish one kind only")
        wait_until_reported(worker, queue, policy_version="4")
