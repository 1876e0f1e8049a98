"""A trainer publishes, and what it reads of its workers is what they do: with stub workers and a real Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import Activate, Client, GenerationConfig, VersionTimeoutError
from tests.support.weights.probes import stub_probe
from tests.support.worker_process import ROOT, WorkerProcess, running_worker

VOCABULARY = 512


@pytest.fixture
def worker(redis_url: str, policy: str, models: Path) -> Iterator[WorkerProcess]:
    flags = ("--engine", "stub", "--stub-vocab-size", str(VOCABULARY), "--checkpoint-dir", str(models))
    with running_worker(redis_url, policy, *flags) as worker:
        yield worker


def sampled_by(client: Client) -> set[int]:
    rollouts = client.generate([[5, 6, 7]] * 3, None, GenerationConfig(max_new_tokens=4), timeout=60)
    return {version for spans in rollouts.version_spans for version, _ in spans}


@pytest.mark.usefixtures("worker")
def test_a_failed_proof_is_told_with_its_numbers_and_the_old_version_serves_on(client: Client, models: Path) -> None:
    client.publish_policy(1, checkpoint=models / "step-1", probe=stub_probe(1, vocab_size=VOCABULARY))
    client.wait_for_version(1, timeout=60)
    client.publish_policy(2, checkpoint=models / "step-2", probe=stub_probe(2, off=3.0, vocab_size=VOCABULARY))
    with pytest.raises(VersionTimeoutError) as late:
        client.wait_for_version(2, timeout=3)
    assert "serves 1, refused: version 2 does not reproduce its probe: mean 3, largest 3 nats off" in str(late.value)
    assert sampled_by(client) == {1}
    client.publish_policy(3, again=1, probe=stub_probe(3, vocab_size=VOCABULARY))
    client.wait_for_version(3, timeout=60)
    assert sampled_by(client) == {3}


@pytest.mark.usefixtures("worker")
def test_a_version_is_served_once_it_is_activated_and_not_before(client: Client, models: Path) -> None:
    client.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    with pytest.raises(VersionTimeoutError, match=r"waits for client\.activate\(1\)"):
        client.wait_for_version(1, timeout=0.3)
    assert (sampled_by(client), client.newest_version()) == ({0}, 0)
    client.activate(1)
    client.wait_for_version(1, timeout=60)
    assert sampled_by(client) == {1}


@pytest.mark.usefixtures("worker")
def test_the_workers_activate_a_version_that_enough_of_them_have_prepared(client: Client, models: Path) -> None:
    client.publish_policy(1, checkpoint=models / "step-1", activate=Activate(when="when_prepared", share=1.0))
    client.wait_for_version(1, timeout=60)
    assert (sampled_by(client), client.newest_version()) == ({1}, 1)


@pytest.mark.usefixtures("worker")
def test_the_documented_program_activates_and_goes_back(
    redis_url: str, client: Client, policy: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "again=version" in block]
    names: dict[str, object] = {}
    exec(compile(program.replace("math-7b", policy), "docs/trainers.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    main(redis_url, models / "step-1", models / "step-2")
    assert capsys.readouterr().out == "1 2\n"
    client.wait_for_version(3, timeout=60)
    assert (sampled_by(client), client.newest_version()) == ({3}, 3)
