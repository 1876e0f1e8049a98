"""The files of an adapter are what they were, whatever a file system says about them; other bytes are noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from rollstream.worker.weights.adapter_content import read_content, still


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "math@1").mkdir()
    (tmp_path / "math@1" / CONFIG_FILE).write_bytes(b"{}")
    (tmp_path / "math@1" / WEIGHTS_FILE).write_bytes(b"weights")
    return tmp_path / "math@1"


def _replace(path: Path, data: bytes) -> None:
    """Another file of the same name and modification time, as `rsync -t` or `cp -p` leave it."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


SAME: dict[str, Callable[[Path], object]] = {
    "looked at": lambda path: path.read_bytes(),
    "touched": lambda path: os.utime(path, (1, 1)),
    "linked": lambda path: path.with_name("link").hardlink_to(path),
    "other rights": lambda path: path.chmod(0o400),
    "another inode": lambda path: _replace(path, path.read_bytes()),
    "copied over": lambda path: shutil.copyfile(shutil.copy(path, path.with_name("copy")), path),
}
OTHER: dict[str, Callable[[Path], object]] = {
    "shorter": lambda path: path.write_bytes(b"weight"),
    "gone": lambda path: path.unlink(),
    "same size": lambda path: path.write_bytes(b"WEIGHTS"),
    "same size and time": lambda path: _replace(path, b"WEIGHTS"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_bytes_are_the_same_content(folder: Path, change: Callable[[Path], object]) -> None:
    content = read_content(folder)

    change(folder / WEIGHTS_FILE)

    now = still(folder, content)
    assert now is not None
    assert now.sha256 == content.sha256
    assert still(folder, now) is now  # and it need not be read again


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_other_bytes_are_noticed(folder: Path, change: Callable[[Path], object]) -> None:
    content = read_content(folder)

    change(folder / WEIGHTS_FILE)

    assert still(folder, content) is None


def test_what_could_not_be_read_is_never_the_same_once_it_can_be(folder: Path) -> None:
    weights = folder / WEIGHTS_FILE
    weights.rename(folder / "away")
    content = read_content(folder)

    (folder / "away").rename(weights)

    assert still(folder, content) is None
