"""A reader of the weight store believes nothing that does not fit what was announced."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rollstream.schemas import Keys, NameRefusedError, WeightsManifest, encode
from rollstream.schemas.weights.compression import compressed
from rollstream.schemas.weights.tensor_digest import TensorEntry, bytes_digest, tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.weights import Chunk
from rollstream.transport.weights import (
    StoreProblem,
    WeightStore,
    WeightStoreError,
    read_chain,
    read_chunk,
    read_manifest,
    store_of,
)


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return store_of(tmp_path, Keys("p"))


def manifest(version: int, base: WeightsManifest | None = None, **changes: Any) -> WeightsManifest:
    entry = TensorEntry("w", "BF16", (version // 100 + 2,), bytes_digest(str(version).encode()))
    below: dict[str, Any] = {}
    if base is not None:
        below = {"base": base.version, "base_sha256": base.sha256, "chain": base.chain + 1}
    fields: dict[str, Any] = {"table": pack_table([entry]), "sha256": tensors_digest([entry]), "packed_chunks": b""}
    return WeightsManifest(version=version, **{**fields, **below, **changes})


async def stored(store: WeightStore, *manifests: WeightsManifest) -> None:
    for one in manifests:
        await store.put(one.name, encode(one))


async def refused(call: Any, told: str) -> None:
    with pytest.raises(WeightStoreError, match=told) as caught:
        await call
    assert caught.value.reason is StoreProblem.BROKEN


async def test_a_chain_is_read_from_its_anchor_on(store: WeightStore) -> None:
    anchor = manifest(1)
    middle = manifest(2, anchor)
    last = manifest(5, middle)
    await stored(store, anchor, middle, last)

    async def versions(*have: str) -> list[int]:
        return [one.version for one in await read_chain(store, last.name, have)]

    assert await versions() == [1, 2, 5]
    assert await versions(middle.sha256) == [5]
    assert await versions(anchor.sha256) == [2, 5]
    assert await versions(last.sha256) == []


async def test_an_anchor_that_was_written_again_in_place_of_a_delta_is_where_the_chain_begins(
    store: WeightStore,
) -> None:
    anchor = manifest(1)
    middle = manifest(2, anchor)
    last = manifest(3, middle)
    await stored(store, middle, last, manifest(2))

    assert [one.version for one in await read_chain(store, last.name)] == [2, 3]


async def test_a_cut_chain_is_missing(store: WeightStore) -> None:
    anchor = manifest(1)
    last = manifest(2, anchor)
    await stored(store, last)

    with pytest.raises(WeightStoreError) as caught:
        await read_chain(store, last.name)
    assert caught.value.reason is StoreProblem.MISSING


async def test_a_manifest_under_another_name_is_refused(store: WeightStore) -> None:
    one, other = manifest(1), manifest(2)
    await store.put(other.name, encode(one))

    await refused(read_manifest(store, other.name), f"it is the manifest of {one.name}")


async def test_bytes_that_are_no_manifest_are_refused(store: WeightStore) -> None:
    name = manifest(1).name
    for data in (b"", b"\xff" * 100, encode(manifest(1))[:-1], encode(manifest(1)).replace(b"BF16", b"BF17")):
        await store.put(name, data)
        await refused(read_manifest(store, name), "WeightsManifest")


async def test_a_base_with_the_same_first_digits_but_other_content_is_refused(store: WeightStore) -> None:
    base = manifest(1)
    last = manifest(2, base, base_sha256=base.sha256[:16] + "0" * 48)
    await stored(store, base, last)

    await refused(read_chain(store, last.name), "has other content")


async def test_a_base_with_other_tensors_is_refused(store: WeightStore) -> None:
    base = manifest(1)
    last = manifest(100, base)
    await stored(store, base, last)

    await refused(read_chain(store, last.name), "has other tensors")


async def test_a_chain_that_counts_wrong_is_refused(store: WeightStore) -> None:
    base = manifest(1)
    middle = manifest(2, base)
    last = manifest(3, middle, chain=7)
    await stored(store, base, middle, last)

    await refused(read_chain(store, last.name), "number 7 of its chain")


async def test_a_name_with_a_slash_is_never_asked_for(store: WeightStore) -> None:
    with pytest.raises(NameRefusedError):
        await read_manifest(store, "../../1-0123456789abcdef")


async def test_a_chunk_is_verified(store: WeightStore) -> None:
    data = bytes(range(200))
    chunk = Chunk(sha256(data).hexdigest(), 200, 200)
    await store.put(chunk.sha256, data)
    assert await read_chunk(store, chunk, "none") == data

    await refused(read_chunk(store, chunk._replace(num_bytes=300), "none"), "not those that were announced")
    await refused(read_chunk(store, chunk._replace(num_bytes=100), "none"), "at most 100 were announced")
    await refused(read_chunk(store, chunk._replace(plain_bytes=7), "none"), "7 were announced")
    await store.put(chunk.sha256, data[:-1] + b"\0")
    await refused(read_chunk(store, chunk, "none"), "not those that were announced")


async def test_a_compressed_chunk_that_grows_is_refused(store: WeightStore) -> None:
    pytest.importorskip("zstandard")
    data = compressed(bytes(2**20), "zstd")
    chunk = Chunk(sha256(data).hexdigest(), len(data), 2**20)
    await store.put(chunk.sha256, data)
    assert await read_chunk(store, chunk, "zstd") == bytes(2**20)

    await refused(read_chunk(store, chunk._replace(plain_bytes=1000), "zstd"), "1000 were announced")
