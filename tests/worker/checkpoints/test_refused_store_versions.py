"""A version from the store that is not what was published is refused by name and leaves nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream.schemas.weights.delta import Record
from rollstream.schemas.weights.tensor_digest import tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.transport.weights import WeightStore
from rollstream.worker.checkpoints.supply import CheckpointSupply, Wanted
from rollstream.worker.checkpoints.tensor_file import TensorFile
from rollstream.worker.errors import CheckpointRefusedError, VersionRefusedError
from rollstream.worker.weights import checkpoint
from tests.support.weights.weight_versions import Tensor, Tensors, chain, held, said, trained, wanted, write
from tests.worker.checkpoints.test_copies import copies, longest_file


async def harmed(weights: WeightStore, name: str, change: Any) -> None:
    await weights.put(name, change(await weights.get(name, 2**26)))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def truncated(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize("harm", [flipped, truncated])
async def test_a_chunk_with_other_bytes_is_refused_and_the_next_anchor_heals(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path, harm: Any
) -> None:
    (first, _), (second, _) = await chain(weights, boot, 1)
    served = await fetching.prepare(wanted(first))
    await fetching.serving(served)
    await harmed(weights, second.chunks[0].sha256, harm)

    with pytest.raises(VersionRefusedError, match=rf"weights {second.name}: cannot read .*announced"):
        await fetching.prepare(wanted(second))

    assert copies(tmp_path / "cache") == [first.name]
    assert checkpoint.unchanged(served.folder, served.content)
    anchor = await write(weights, 3, healed := trained(boot, 3))
    assert held(await fetching.prepare(wanted(anchor))) == said(healed)


async def test_a_cut_chain_is_refused_until_its_chunk_is_there_again(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    versions = await chain(weights, boot, 2)
    newest, tensors = versions[2]
    lost = newest.chunks[0].sha256
    data = await weights.get(lost, 2**26)
    await weights.delete([lost])

    with pytest.raises(VersionRefusedError, match=rf"cannot read {lost}.*next anchor"):
        await fetching.prepare(wanted(newest))

    stamp = await fetching.stamp(wanted(newest))
    await weights.put(lost, data)
    assert await fetching.stamp(wanted(newest)) != stamp
    assert held(await fetching.prepare(wanted(newest))) == said(tensors)


async def test_a_manifest_that_is_missing_is_refused_by_name_and_its_stamp_is_empty(
    fetching: CheckpointSupply,
) -> None:
    asked = Wanted(version=7, location=f"7-{'0' * 16}", sha256="0" * 64, transport="store")

    with pytest.raises(VersionRefusedError, match="cannot read 7-0000000000000000"):
        await fetching.prepare(asked)

    assert await fetching.stamp(asked) == ()


@pytest.mark.parametrize("name", ["../secret", "7-XYZ", "/etc/passwd", ""])
async def test_a_name_that_is_none_reaches_no_file(fetching: CheckpointSupply, name: str) -> None:
    asked = Wanted(version=7, location=name, sha256="0" * 64, transport="store")

    with pytest.raises(VersionRefusedError, match="is not usable"):
        await fetching.prepare(asked)

    assert await fetching.stamp(asked) == ()


async def test_another_digest_than_the_announced_one_is_refused(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    ((manifest, _),) = await chain(weights, boot, 0)

    with pytest.raises(VersionRefusedError, match="other weights under this name"):
        await fetching.prepare(wanted(manifest, sha256=manifest.sha256[:16] + "0" * 48))


async def test_records_that_do_not_give_the_digest_are_refused_with_the_tensors_name(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path
) -> None:
    """As a delta against another base than its manifest says."""
    (first, before), _ = await chain(weights, boot, 1)
    await fetching.serving(await fetching.prepare(wanted(first)))
    other = trained(before, 7)
    wrong = await write(weights, 3, trained(other, 9), (first, other))

    with pytest.raises(VersionRefusedError, match=r"tensor \S+ is not what was published"):
        await fetching.prepare(wanted(wrong))

    assert copies(tmp_path / "cache") == [first.name]


async def test_a_record_for_a_tensor_that_is_said_to_stay_is_found_out(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    (first, before), _ = await chain(weights, boot, 1)
    await fetching.serving(await fetching.prepare(wanted(first)))
    moved = trained(before, 4)
    one, *_ = [name for name in sorted(moved) if moved[name] is not before[name]]
    said_of = [(moved if name == one else before)[name].entry(name) for name in before]
    wrong = await write(weights, 3, moved, (first, before), table=pack_table(said_of), sha256=tensors_digest(said_of))

    with pytest.raises(VersionRefusedError, match=r"tensor \S+ is not what was published") as caught:
        await fetching.prepare(wanted(wrong))

    assert f"tensor {one} " not in str(caught.value)


async def test_a_bit_that_flips_in_what_is_copied_is_refused_and_the_next_try_takes_the_anchor(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a tensor that no record changes: its digest alone can tell."""
    (first, _), (second, after) = await chain(weights, boot, 1)
    await fetching.serving(await fetching.prepare(wanted(first)))
    pairs = enumerate(zip(first.tensors, second.tensors, strict=True))
    still = next(at for at, (old, new) in pairs if old == new)
    copy_from = TensorFile.copy_from
    noise = np.full(second.tensors[still].item_bytes, 1, np.uint8)

    def flipping(file: TensorFile, base: Path, given_up: threading.Event) -> None:
        copy_from(file, base, given_up)
        file.apply(Record(tensor=still, start=0, count=1, places=None, values=noise))

    monkeypatch.setattr(TensorFile, "copy_from", flipping)
    with pytest.raises(VersionRefusedError, match=f"tensor {second.tensors[still].name} is not what was published"):
        await fetching.prepare(wanted(second))
    assert copies(tmp_path / "cache") == [first.name]

    assert held(await fetching.prepare(wanted(second))) == said(after)


async def test_another_models_tensors_are_refused_before_a_chunk_is_fetched(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    name = sorted(boot)[0]
    bigger = dict(boot) | {name: Tensor("F32", (2**20, 2**18), np.zeros(4, np.uint8))}
    huge = await write(weights, 1, bigger, packed_chunks=b"")

    with pytest.raises(CheckpointRefusedError, match=rf"{huge.name}.*tensor {name} (has shape|is F32)"):
        await fetching.prepare(wanted(huge))


async def test_nan_in_a_changed_tensor_is_refused_by_its_name(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path
) -> None:
    (first, before), _ = await chain(weights, boot, 1)
    await fetching.serving(await fetching.prepare(wanted(first)))
    name = sorted(before)[-1]
    values = before[name].values.copy()
    values[-2:] = (0xC0, 0x7F)
    spoilt = dict(before) | {name: replace(before[name], values=values)}
    manifest = await write(weights, 2, spoilt, (first, before))

    with pytest.raises(CheckpointRefusedError, match=rf"tensor {name} has a weight that is NaN"):
        await fetching.prepare(wanted(manifest))

    assert copies(tmp_path / "cache") == [first.name]


async def test_a_full_disk_refuses_by_name_and_leaves_the_served_version(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path
) -> None:
    (first, _), (second, after) = await chain(weights, boot, 1)
    served = await fetching.prepare(wanted(first))
    await fetching.serving(served)

    with longest_file(20_000), pytest.raises(VersionRefusedError, match=r"--weights-cache: \d+ bytes cannot be writ"):
        await fetching.prepare(wanted(second))

    assert copies(tmp_path / "cache") == [first.name]
    assert held(await fetching.prepare(wanted(second))) == said(after)


async def test_a_worker_without_a_store_says_so(steps: Path) -> None:
    asked = Wanted(version=7, location=f"7-{'0' * 16}", sha256="0" * 64, transport="store")

    with pytest.raises(VersionRefusedError, match="started without --weights"):
        await CheckpointSupply(folder=steps).prepare(asked)
