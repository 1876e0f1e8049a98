"""With a cache, a published folder is read once, and what is served does not depend on it any more."""

from __future__ import annotations

import asyncio
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import iglob
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rollstream.worker.checkpoints.supply import CheckpointSupply, Wanted
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from rollstream.worker.errors import CheckpointRefusedError, SettingsError, VersionRefusedError
from rollstream.worker.weights import checkpoint
from tests.support.weights.versions import shard
from tests.support.worker_process import until_true


def wanted(folder: Path, version: int = 1) -> Wanted:
    return Wanted(version=version, location=folder.name, sha256=checkpoint.digest(folder))


def copies(cache: Path) -> list[str]:
    """Names of the folders in the caches of all workers."""
    found = iglob(f"{cache}/rollstream-weights-*/*/*")  # noqa: PTH207 - `Path.glob` fails when a folder goes meanwhile
    return sorted(Path(path).name for path in found)


def bytes_read() -> int:
    """By this process so far, from files and everything else."""
    return int(Path("/proc/self/io").read_text().split()[1])


def long_file(path: Path, nbytes: int) -> None:
    """One tensor, without its bytes on the disk."""
    header = f'{{"a":{{"dtype":"U8","shape":[{nbytes}],"data_offsets":[0,{nbytes}]}}}}'.encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)


@contextmanager
def longest_file(nbytes: int) -> Iterator[None]:
    """What this process writes beyond it fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sharded", [False, True])
async def test_what_is_prepared_is_a_copy_that_outlives_the_trainers_folder(
    steps: Path, supply: CheckpointSupply, tiny_model: Path, *, sharded: bool
) -> None:
    if sharded:
        shard(steps / "step-1")
    asked = wanted(steps / "step-1")

    prepared = await supply.prepare(asked)
    shutil.rmtree(steps / "step-1")

    assert prepared.content.sha256 == asked.sha256 == checkpoint.digest(prepared.folder)
    assert checkpoint.unchanged(prepared.folder, prepared.content)
    checkpoint.check(prepared.folder, checkpoint.Booted(folder=tiny_model))


async def test_a_folder_is_read_once_for_its_digest_and_its_copy(steps: Path, supply: CheckpointSupply) -> None:
    nbytes = 32 * 2**20
    save_file({"a": np.zeros(nbytes, np.uint8)}, steps / "step-1" / "model.safetensors")
    asked = wanted(steps / "step-1")
    before = bytes_read()

    await supply.prepare(asked)

    assert bytes_read() - before < 1.5 * nbytes


async def test_the_same_content_is_not_copied_again_and_its_folder_not_needed(
    steps: Path, supply: CheckpointSupply
) -> None:
    asked = wanted(steps / "step-1")
    first = await supply.prepare(asked)
    await supply.serving(first)
    await supply.serving(await supply.prepare(wanted(steps / "step-2", 2)))
    shutil.rmtree(steps / "step-1")

    again = await supply.prepare(Wanted(version=3, location="step-1", sha256=asked.sha256))

    assert again == first


async def test_a_copy_that_somebody_changed_is_made_again(steps: Path, supply: CheckpointSupply) -> None:
    asked = wanted(steps / "step-1")
    first = await supply.prepare(asked)
    (first.folder / "config.json").write_text("{}")

    again = await supply.prepare(asked)

    assert again.folder != first.folder
    assert checkpoint.digest(again.folder) == asked.sha256


async def test_the_served_one_and_the_one_before_stay_and_others_go(
    models: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    steps, cache = supply._folder, tmp_path / "cache"
    assert steps is not None
    for step in (1, 2, 3):
        shutil.copytree(models / f"step-{step}", steps / f"step-{step}", dirs_exist_ok=True)
        prepared = await supply.prepare(wanted(steps / f"step-{step}", step))
        await supply.serving(prepared)

    await until_true(lambda: copies(cache) == ["step-2", "step-3"])


async def test_what_is_prepared_stays_while_another_one_is_served_and_prepared(
    steps: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    served = await supply.prepare(wanted(steps / "step-1"))
    waits = await supply.prepare(wanted(steps / "step-2", 2))

    await supply.serving(served)

    assert checkpoint.unchanged(waits.folder, waits.content)
    assert copies(tmp_path / "cache") == ["step-1", "step-2"]


async def test_a_served_version_is_noted_at_once_while_another_is_copied(
    steps: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    served = await supply.prepare(wanted(steps / "step-1"))
    long_file(steps / "step-2" / "model.safetensors", 2**31)
    copying = asyncio.create_task(supply.prepare(Wanted(version=2, location="step-2", sha256="0" * 64)))
    await until_true(lambda: "step-2" in copies(tmp_path / "cache"))

    await supply.serving(served)

    assert not copying.done()
    copying.cancel()


def spoilt(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xc0\x7f"  # the last number is NaN, in float32 and in bfloat16
    path.write_bytes(content)


async def test_a_checkpoint_with_nan_is_refused_and_its_copy_removed(
    steps: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    spoilt(steps / "step-1")

    with pytest.raises(CheckpointRefusedError, match=r"step-1.*NaN"):
        await supply.prepare(wanted(steps / "step-1"))

    assert not copies(tmp_path / "cache")


async def test_other_files_than_those_announced_are_refused_and_the_copy_removed(
    steps: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    asked = Wanted(version=1, location="step-1", sha256="0" * 64)

    with pytest.raises(VersionRefusedError, match=r"step-1: its files are not those"):
        await supply.prepare(asked)

    assert not copies(tmp_path / "cache")


async def test_weights_that_vllm_would_leave_out_are_refused_though_a_copy_would_lack_them(
    steps: Path, supply: CheckpointSupply
) -> None:
    asked = wanted(steps / "step-1")
    (steps / "step-1" / "pytorch_model.bin").write_bytes(b"0")

    with pytest.raises(CheckpointRefusedError, match=r"pytorch_model\.bin"):
        await supply.prepare(asked)


async def test_a_disk_that_takes_no_more_refuses_the_version_by_name_and_keeps_the_served_one(
    steps: Path, tmp_path: Path, supply: CheckpointSupply
) -> None:
    served = await supply.prepare(wanted(steps / "step-1"))
    await supply.serving(served)
    asked = wanted(steps / "step-2", 2)

    with longest_file(20_000), pytest.raises(VersionRefusedError, match=r"--weights-cache: \d+ bytes cannot be writ"):
        await supply.prepare(asked)

    assert copies(tmp_path / "cache") == ["step-1"]
    assert (await supply.prepare(asked)).content.sha256 == asked.sha256


async def test_a_checkpoint_larger_than_what_is_free_is_refused_with_both_numbers_before_it_is_read(
    steps: Path, supply: CheckpointSupply
) -> None:
    long_file(steps / "step-1" / "model.safetensors", 2**43)

    with pytest.raises(VersionRefusedError, match=r"\d+ bytes are free, and the checkpoint has 87960\d+"):
        await supply.prepare(Wanted(version=1, location="step-1", sha256="0" * 64))


async def test_a_cancelled_copy_ends_and_leaves_nothing(steps: Path, tmp_path: Path, supply: CheckpointSupply) -> None:
    folder, cache = steps / "step-1", tmp_path / "cache"
    long_file(folder / "model.safetensors", 2**31)
    task = asyncio.create_task(supply.prepare(Wanted(version=1, location="step-1", sha256="0" * 64)))
    await until_true(lambda: any(cache.glob("*/*/*/model.safetensors")))

    task.cancel()

    await until_true(lambda: not copies(cache))
    with pytest.raises(asyncio.CancelledError):
        await task


def test_two_models_must_fit_at_the_start(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(2**43)
    cache = WeightsCache(root=tmp_path / "cache", model=model)

    with pytest.raises(
        SettingsError, match=r"--weights-cache: .*cache: \d+ bytes .* GiB\) are free, and 2 models of 8796\d+ bytes \(8"
    ):
        cache.open()

    assert not any((tmp_path / "cache").iterdir())


def test_a_path_in_which_vllm_finds_no_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--weights-cache: .*\* \? \["):
        WeightsCache(root=tmp_path / "a[1]", model=None).open()


@pytest.mark.parametrize("has_cache", [True, False])
async def test_a_checkpoint_that_was_saved_elsewhere_is_refused_by_the_flag_that_says_where(
    supply: CheckpointSupply, steps: Path, *, has_cache: bool
) -> None:
    asked = Wanted(version=1, location="saved-elsewhere", sha256="0" * 64)

    with pytest.raises(CheckpointRefusedError, match="directly below this worker's --checkpoint-dir: save it there"):
        await (supply if has_cache else CheckpointSupply(folder=steps)).prepare(asked)
