"""A worker started with `--probe` takes no job unless its boot model reproduces the probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream import Client
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import SettingsError
from rollstream.worker.startup.boot_probe import prove_boot_weights, read_probe
from rollstream.worker.versions.proofs import Proofs
from tests.support.fault_steps import stub, stub_flags, tokens, wait_until_done
from tests.support.faults import Queue
from tests.support.weights.probes import one_wrong, stub_probe, write_probe
from tests.support.weights.versions import report
from tests.support.worker_process import WorkerProcess

VOCAB = 1000
"""That of the stub workers."""


def test_boot_weights_that_reproduce_their_probe_are_served_and_reported(
    redis_url: str, policy: str, client: Client, queue: Queue, tmp_path: Path
) -> None:
    probe = write_probe(tmp_path / "boot.probe", stub_probe(0, vocab_size=VOCAB))
    with stub(redis_url, policy, "--probe", str(probe)) as worker:
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)
        assert report(worker, queue)["policy_proof"] == "mean 0, largest 0 nats off (16 tokens in 2 rows, float32)"


def test_other_boot_weights_end_the_worker_before_it_takes_a_job(
    redis_url: str, policy: str, client: Client, queue: Queue, tmp_path: Path
) -> None:
    probe = write_probe(tmp_path / "boot.probe", stub_probe(0, off=0.5, vocab_size=VOCAB))
    batch = client.submit([[5]], None, tokens())
    worker = WorkerProcess(redis_url, policy, *stub_flags(), "--probe", str(probe))
    try:
        assert worker.process.wait(60) == 2, worker.log
        assert "--probe: the boot model does not reproduce it: mean 0.5, largest 0.5 nats off" in worker.log
        assert (queue.done(batch.batch_id), queue.holders()) == (0, {})
    finally:
        worker.end()


async def test_a_probe_of_another_vocabulary_is_not_blamed_on_the_boot_weights() -> None:
    engine = StubEngine(WorkerSettings(policy="p", engine="stub", stub_vocab_size=VOCAB))

    with pytest.raises(SettingsError, match=r"boot model cannot be proven here: .* this model has 1000$"):
        await prove_boot_weights(stub_probe(0, vocab_size=VOCAB + 1), engine, Proofs())


async def test_each_engine_of_a_worker_reproduces_the_probe() -> None:
    settings, proofs = WorkerSettings(policy="p", engine="stub"), Proofs()
    probe = stub_probe(0, rows=([5, 6, 7, 8],))

    with pytest.raises(SettingsError, match="the boot model does not reproduce it"):
        await prove_boot_weights(probe, one_wrong(settings), proofs)
    assert not proofs.allows(0)

    await prove_boot_weights(probe, Replicas([StubEngine(settings), StubEngine(settings)]), proofs)
    assert proofs.allows(0)


def test_a_probe_of_a_few_tokens_is_refused(tmp_path: Path) -> None:
    path = write_probe(tmp_path / "boot.probe", stub_probe(0, rows=(list(range(5, 21)),)))

    with pytest.raises(SettingsError, match=r"^--probe: .*boot.probe compares 15 log-probs, and at least 16 prove"):
        read_probe(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [(None, "No such file"), (b"\xc1", "holds no probe"), (b"\0" * (2**20 + 1), "it has more than 1048576 bytes")],
)
def test_a_file_that_is_no_probe_is_named(tmp_path: Path, data: bytes | None, says: str) -> None:
    path = tmp_path / "boot.probe"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(SettingsError, match=f"^--probe: .*boot.probe.* {says}"):
        read_probe(path)
