"""Files are the same while their bytes are, whatever else about them changes; and a change of bytes is noticed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollstream import Client
from rollstream.producer.policies.checkpoint_files import CheckpointFolder
from rollstream.worker.weights.checkpoint import read_content, stamp, unchanged, unread_content
from tests.support.fault_steps import stub
from tests.support.faults import Queue
from tests.support.weights.versions import wait_until_serves

WEIGHTS = "model.safetensors"


@pytest.fixture
def step(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "step-1", tmp_path / "step-1"))


def replace(path: Path, content: bytes) -> None:
    """Another file of the same name, size and time of modification."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def other_bytes(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    return bytes(content)


def copied_in_place(folder: Path) -> None:
    replace(folder / WEIGHTS, (folder / WEIGHTS).read_bytes())


def touched(folder: Path) -> None:
    os.utime(folder / WEIGHTS)


def linked(folder: Path) -> None:
    (folder / "backup").hardlink_to(folder / WEIGHTS)


def with_other_rights(folder: Path) -> None:
    (folder / "config.json").chmod(0o400)


def other_files_beside(folder: Path) -> None:
    (folder / "trainer_state.json").write_text("{}")


@pytest.mark.parametrize("what", [copied_in_place, touched, linked, with_other_rights, other_files_beside])
def test_a_checkpoint_whose_bytes_stay_is_unchanged(what: Callable[[Path], None], step: Path) -> None:
    content = read_content(step)
    assert unchanged(step, content)

    what(step)

    assert unchanged(step, content)


def replaced(folder: Path) -> None:
    replace(folder / WEIGHTS, other_bytes(folder / WEIGHTS))


def overwritten(folder: Path) -> None:
    """Write a file as `rsync --inplace --times` does."""
    status, content = (folder / WEIGHTS).stat(), other_bytes(folder / WEIGHTS)
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(content)
    os.utime(folder / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))


def one_more(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "more.safetensors")


def gone(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("what", [replaced, overwritten, one_more, gone, shutil.rmtree])
def test_a_checkpoint_with_other_bytes_is_changed_also_where_size_and_time_are_the_same(
    what: Callable[[Path], None], step: Path
) -> None:
    content = read_content(step)

    what(step)

    assert not unchanged(step, content)


def test_of_a_folder_that_nobody_has_read_times_and_sizes_are_all_that_is_known(step: Path) -> None:
    content = unread_content(step)
    copied_in_place(step)
    assert unchanged(step, content)

    touched(step)

    assert not unchanged(step, content)


def test_a_stamp_does_not_follow_from_the_number_of_an_inode(step: Path) -> None:
    before = stamp(step)
    copied_in_place(step)
    assert stamp(step) == before

    touched(step)

    assert stamp(step) != before


@contextmanager
def restless(folder: Path) -> Iterator[None]:
    """Gives each file another inode all the time, as some file systems do at each look; its bytes stay."""
    paths = sorted(folder.iterdir())
    contents = [(path, path.read_bytes()) for path in paths]
    end, began = threading.Event(), max(path.stat().st_ctime_ns for path in paths)

    def replace_all() -> None:
        while not end.wait(0.001):
            for path, content in contents:
                replace(path, content)

    thread = threading.Thread(target=replace_all)
    thread.start()
    try:
        yield
        assert min(path.stat().st_ctime_ns for path in paths) > began
    finally:
        end.set()
        thread.join()


def test_a_checkpoint_whose_inodes_never_stay_is_published_and_served(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with (
        stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker,
        restless(steps / "step-2"),
    ):
        assert CheckpointFolder(steps / "step-2").digest() == read_content(steps / "step-2").sha256
        client.publish_policy(2, checkpoint=steps / "step-2")
        wait_until_serves(worker, queue, 2)
