"""A checkpoint is announced whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream import AdapterError, AsyncClient, CheckpointError
from rollstream.producer.policies.checkpoint_files import CheckpointFolder
from rollstream.worker.weights.checkpoint import digest
from tests.support.faults import Queue
from tests.support.weights.publishing import announced
from tests.support.weights.versions import shard


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A checkpoint to be harmed."""
    return Path(shutil.copytree(models / "step-1", tmp_path / "step-1"))


async def test_a_checkpoint_is_announced_by_name_and_the_digest_that_workers_compute(
    trainer: AsyncClient, models: Path, queue: Queue, tmp_path: Path
) -> None:
    published = await trainer.publish_policy(3, checkpoint=models / "step-1")
    (tmp_path / "latest").symlink_to(models / "step-2")
    await trainer.publish_policy(7, checkpoint=str(tmp_path / "latest"), progress=True)

    assert [entry for entry, _ in announced(queue)] == ["3-0", "7-0"]
    first, second = (version for _, version in announced(queue))
    assert first == published
    assert (first.version, first.source, first.location) == (3, "checkpoint", "step-1")
    assert first.sha256 == digest(models / "step-1") != second.sha256
    assert second.location == "step-2", "a link's own name may be another folder tomorrow"
    assert abs(first.published_at - time.time()) < 60


def _cut(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)


def _lose_a_shard(folder: Path) -> None:
    (shard(folder) / "model-00002-of-00002.safetensors").unlink()


def _link_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to(folder.parent / "blob")


def _index(text: str) -> Callable[[Path], object]:
    return lambda folder: (shard(folder) / "model.safetensors.index.json").write_text(text)


def _die_before_the_index(folder: Path) -> None:
    """As `save_pretrained` does after its first file, and after its last."""
    (shard(folder) / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()


def _die_before_the_index_alone(folder: Path) -> None:
    (shard(folder) / "model.safetensors.index.json").unlink()


def _config(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(text)


def _enlarge(name: str) -> Callable[[Path], object]:
    def enlarge(folder: Path) -> None:
        with (shard(folder) / name).open("r+b") as file:
            file.truncate(20 * 2**30)  # a sparse file

    return enlarge


def _loop(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


HARMS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no folder"),
    (lambda folder: (folder / "model.safetensors").unlink(), "needs config.json and *.safetensors"),
    (lambda folder: (folder / "config.json").unlink(), "needs config.json and *.safetensors"),
    (_cut, "model.safetensors is not whole"),
    (_lose_a_shard, "model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there"),
    (_link_out, "model.safetensors is a link out of the folder"),
    (_index('{"weight_map": []}'), "model.safetensors.index.json has no weight_map"),
    (_index('{"weight_map": {}}'), "model.safetensors.index.json has no weight_map"),
    (_index(""), "model.safetensors.index.json cannot be read (JSONDecodeError)"),
    (_die_before_the_index, "model-00001-of-00002.safetensors needs model.safetensors.index.json"),
    (_die_before_the_index_alone, "model-00001-of-00002.safetensors needs model.safetensors.index.json"),
    (_config(""), "config.json cannot be read (JSONDecodeError)"),
    (_config('{"model_type": "qw'), "config.json cannot be read (JSONDecodeError)"),
    (_config("[" * 100_000), "config.json cannot be read (RecursionError)"),
    (_config("[]"), "config.json is no JSON object"),
    (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), "config.json cannot be read (Unicode"),
    (_enlarge("config.json"), "config.json has more than 1048576 bytes"),
    (_enlarge("model.safetensors.index.json"), "model.safetensors.index.json has more than 67108864 bytes"),
    (_loop, "cannot be read: Symlink loop"),
]


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[f"{n} {words[:40]}" for n, (_, words) in enumerate(HARMS)])
async def test_a_checkpoint_that_is_not_whole_is_not_announced(
    trainer: AsyncClient, folder: Path, queue: Queue, harm: Callable[[Path], object], words: str
) -> None:
    harm(folder)
    with pytest.raises(CheckpointError, match="step-1") as refused:
        await trainer.publish_policy(1, checkpoint=folder)
    assert words in refused.value.problem
    assert announced(queue) == []


async def test_a_checkpoint_in_several_files_is_announced_with_its_index(
    trainer: AsyncClient, folder: Path, queue: Queue
) -> None:
    await trainer.publish_policy(1, checkpoint=shard(folder))
    assert announced(queue)[0][1].sha256 == digest(folder)


@pytest.mark.parametrize("path", ["a\0b", "step-1/\0", "x" * 5000, "\udc80"])
async def test_a_path_that_cannot_be_is_refused(trainer: AsyncClient, queue: Queue, path: str) -> None:
    with pytest.raises(CheckpointError):
        await trainer.publish_policy(1, checkpoint=path)
    with pytest.raises(AdapterError, match="needs adapter_config"):
        await trainer.publish_policy(1, adapter=path)
    assert announced(queue) == []


@pytest.mark.parametrize(("path", "hinted"), [("nolora", False), ("owner/nolora", True)])
async def test_only_what_may_be_an_adapters_id_gets_a_command_to_download_it(
    trainer: AsyncClient, path: str, hinted: bool
) -> None:
    with pytest.raises(AdapterError) as refused:
        await trainer.publish_policy(1, adapter=path)
    assert ("hf download" in str(refused.value)) is hinted


async def test_a_folder_that_is_a_link_to_itself_is_refused(trainer: AsyncClient, queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "step-1").symlink_to(tmp_path / "step-1")
    with pytest.raises(CheckpointError, match="cannot be read: Symlink loop"):
        await trainer.publish_policy(1, checkpoint=tmp_path / "step-1")
    with pytest.raises(AdapterError, match="needs adapter_config"):
        await trainer.publish_policy(1, adapter=tmp_path / "step-1")
    assert announced(queue) == []


async def test_a_folder_whose_name_cannot_travel_is_refused(trainer: AsyncClient, folder: Path, queue: Queue) -> None:
    spaced = shutil.copytree(folder, folder.parent / "step 1")
    with pytest.raises(CheckpointError, match="checkpoint folder 'step 1'"):
        await trainer.publish_policy(1, checkpoint=spaced)
    assert announced(queue) == []


def test_files_that_change_while_they_are_read_have_no_digest(folder: Path) -> None:
    files = CheckpointFolder(folder)
    with pytest.raises(CheckpointError, match="changed while they were read"):
        files.digest(lambda _done: (folder / "config.json").touch())
