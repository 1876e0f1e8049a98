"""A manifest of the weight store is believed only if it is consistent in itself: its writer may be hostile."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.schemas import WeightsManifest, WireError, decode, encode
from rollstream.schemas.weights.tensor_digest import TensorEntry, tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.weights import MAX_CHUNK_BYTES, Chunk, pack_chunks
from tests.schemas.wire.messages import TENSORS, WEIGHTS


def test_its_name_tells_version_and_tensors() -> None:
    assert WEIGHTS.name == f"7-{WEIGHTS.sha256[:16]}"
    assert WEIGHTS.base_name == f"6-{'0d' * 8}"


def test_it_tells_its_tensors_and_chunks() -> None:
    read = decode(encode(WEIGHTS), WeightsManifest)

    assert list(read.tensors) == TENSORS
    assert read.chunks == (Chunk("0c" * 32, 40, 64),)
    assert (read.num_bytes, read.plain_bytes) == (40, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"sha256": "../../etc/passwd"},
        {"config": b"{}"},
        {"config": b" " * (2**16 + 1), "sha256": tensors_digest(TENSORS, b" " * (2**16 + 1))},
        {"table": WEIGHTS.table[:-1]},
        {"table": pack_table([TENSORS[0]])},
        {"table": b"RST1\xff\xff\xff\xff"},
        {"packed_chunks": WEIGHTS.packed_chunks[:-1]},
        {"packed_chunks": pack_chunks([Chunk("0c" * 32, MAX_CHUNK_BYTES + 1, 64)])},
        {"packed_chunks": pack_chunks([Chunk("0c" * 32, 40, MAX_CHUNK_BYTES + 1)])},
        {"packed_chunks": pack_chunks([Chunk("0c" * 32, 0, 64)])},
        {"compression": "pickle"},
        {"base": 7},
        {"base": 8},
        {"base": None},
        {"base_sha256": None},
        {"chain": 0},
        {"chain": 1001},
        {"version": 0},
    ],
    ids=str,
)
def test_one_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    data = encode(WEIGHTS.model_copy(update=changes))

    with pytest.raises(WireError):
        decode(data, WeightsManifest)


def test_tens_of_thousands_of_tensors_fit_one_message() -> None:
    entries = [
        TensorEntry(f"model.layers.{n // 400}.mlp.experts.{n % 400}.up_proj.weight", "BF16", (8, 8), "0" * 64)
        for n in range(20_000)
    ]
    manifest = WEIGHTS.model_copy(update={"sha256": tensors_digest(entries), "table": pack_table(entries)})

    assert len(decode(encode(manifest), WeightsManifest).tensors) == 20_000
