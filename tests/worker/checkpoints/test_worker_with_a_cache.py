"""A worker with `--weights-cache`, and one whose cache or store cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rollstream import Client
from rollstream.worker.command import main
from rollstream.worker.exit_codes import EXIT_SETTINGS
from rollstream.worker.weights.checkpoint import digest
from tests.support.fault_steps import stub, stub_flags
from tests.support.faults import Queue
from tests.support.weights.versions import announce, publish, wait_until_serves
from tests.support.worker_process import WorkerProcess

STUB = ["--policy", "p", "--engine", "stub"]


def test_a_worker_goes_back_to_the_version_before_though_the_trainer_removed_all_folders(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path, tmp_path: Path
) -> None:
    before = digest(steps / "step-1")
    flags = ("--checkpoint-dir", str(steps), "--weights-cache", str(tmp_path / "cache"))
    with stub(redis_url, policy, *flags) as worker:
        for version in (1, 2):
            publish(client, steps, version)
            wait_until_serves(worker, queue, version)
        for folder in steps.iterdir():
            shutil.rmtree(folder)

        announce(queue, 3, "step-1", before)

        wait_until_serves(worker, queue, 3)
    assert not [*(tmp_path / "cache").iterdir()], "a worker that ended left its copies"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--weights", "/nowhere"],
            "--weights: cannot use the weights: weight store /nowhere: there is no such folder",
        ),
        (["--weights", "ftp9://host/dir"], "--weights: cannot use the weights: weight store ftp9://host/dir: "),
        (["--weights-cache", "/proc/none"], "--weights-cache: /proc/none: "),
    ],
)
def test_a_place_that_cannot_be_is_refused_at_the_start_by_its_flag(
    redis_url: str, policy: str, flags: list[str], told: str
) -> None:
    worker = WorkerProcess(redis_url, policy, *stub_flags(), *flags)
    try:
        assert worker.process.wait(30) == EXIT_SETTINGS
        assert told in worker.log
    finally:
        worker.end()


@pytest.mark.parametrize("place", ["s3://me:SECRET@bucket/run?token=SECRET", "s3:/me:SECRET@bucket/run"])
def test_print_config_shows_a_store_without_what_its_url_keeps(capsys: pytest.CaptureFixture[str], place: str) -> None:
    main([*STUB, "--print-config", "--weights", place])

    printed = capsys.readouterr().out
    assert "bucket/run" in printed
    assert "SECRET" not in printed
