"""A version from the store is exactly what was published, and needs no more of the store than it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream.transport.weights import WeightStore
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.weights import checkpoint
from tests.support.weights.weight_versions import Tensors, chain, held, said, trained, wanted, write
from tests.worker.checkpoints.test_copies import copies


async def test_an_anchor_gives_the_published_tensors_beside_the_boot_models_config(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tiny_model: Path
) -> None:
    ((manifest, tensors),) = await chain(weights, boot, 0)

    prepared = await fetching.prepare(wanted(manifest))

    assert held(prepared) == said(tensors)
    assert (prepared.folder / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()
    assert prepared.content.sha256 == manifest.sha256
    checkpoint.check(prepared.folder, checkpoint.Booted(folder=tiny_model))


async def test_a_delta_is_patched_into_a_copy_and_the_base_stays_as_it_is(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    (first, before), (second, after) = await chain(weights, boot, 1)
    base = await fetching.prepare(wanted(first))
    await fetching.serving(base)
    await weights.delete([one.sha256 for one in first.chunks])

    prepared = await fetching.prepare(wanted(second))

    assert held(prepared) == said(after)
    assert held(base) == said(before)
    assert checkpoint.unchanged(base.folder, base.content)


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_late_joiner_takes_the_anchor_and_all_deltas_without_the_versions_between(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors, tmp_path: Path, compression: Any
) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard")
    first = await write(weights, 1, boot, compression=compression), boot
    second = trained(boot, 2)
    third = trained(second, 3)
    base = await write(weights, 2, second, first, compression), second
    newest = await write(weights, 3, third, base, compression)

    prepared = await fetching.prepare(wanted(newest))

    assert held(prepared) == said(third)
    assert copies(tmp_path / "cache") == [newest.name]


async def test_versions_that_were_refused_or_missed_are_passed_over(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    versions = await chain(weights, boot, 3)
    await fetching.serving(await fetching.prepare(wanted(versions[0][0])))
    await weights.delete([one.sha256 for one in versions[0][0].chunks])

    prepared = await fetching.prepare(wanted(versions[3][0]))

    assert held(prepared) == said(versions[3][1])


async def test_a_base_that_somebody_changed_on_the_disk_is_not_built_on(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    (first, _), (second, after) = await chain(weights, boot, 1)
    base = await fetching.prepare(wanted(first))
    await fetching.serving(base)
    path = base.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    prepared = await fetching.prepare(wanted(second))

    assert held(prepared) == said(after)


async def test_going_back_to_the_version_before_needs_no_store(
    weights: WeightStore, fetching: CheckpointSupply, boot: Tensors
) -> None:
    (first, _), (second, _) = await chain(weights, boot, 1)
    before = await fetching.prepare(wanted(first))
    await fetching.serving(before)
    await fetching.serving(await fetching.prepare(wanted(second)))
    await weights.delete([one.name for one in await weights.items()])

    again = await fetching.prepare(wanted(first, version=3))

    assert again == before
