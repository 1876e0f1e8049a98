"""A checkpoint's digest follows from its content alone, its stamp from its files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from rollstream.producer.policies.checkpoint_files import CheckpointFolder
from rollstream.worker.weights.checkpoint import digest, stamp
from tests.support.weights.versions import shard

WEIGHTS = "model.safetensors"


def test_the_digest_is_the_producers_and_follows_from_the_content_alone(new: Path, tmp_path: Path) -> None:
    shard(new)
    copied = tmp_path / "elsewhere"
    shutil.copytree(new, copied)
    (copied / "trainer_state.json").write_text("{}")

    assert digest(copied) == digest(new) == CheckpointFolder(new).digest()
    assert len(digest(new)) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_changed_byte_or_a_missing_file_changes_the_digest(name: str, new: Path) -> None:
    before = digest(shard(new))
    content = bytearray((new / name).read_bytes())
    content[len(content) // 2] ^= 1
    (new / name).write_bytes(content)
    changed = digest(new)
    (new / name).unlink()

    assert len({before, changed, digest(new)}) == 3


def test_a_renamed_file_changes_the_digest(new: Path) -> None:
    before = digest(new)
    (new / WEIGHTS).rename(new / "other.safetensors")

    assert digest(new) != before


def test_a_stamp_changes_when_a_file_is_written_again_or_goes(new: Path) -> None:
    before = stamp(new)
    shutil.copy(new / WEIGHTS, new / "copy")
    (new / "copy").rename(new / WEIGHTS)
    replaced = stamp(new)
    (new / WEIGHTS).unlink()

    assert len({before, replaced, stamp(new)}) == 3
    assert stamp(new) == stamp(new)
