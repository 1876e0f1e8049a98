"""The table of a version's tensors, and the digest over it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollstream.schemas.weights.errors import WeightsFormatError
from rollstream.schemas.weights.tensor_digest import ITEM_BYTES, TensorEntry, bytes_digest, tensors_digest
from rollstream.schemas.weights.tensor_table import MAX_TABLE_BYTES, pack_table, unpack_table

A = TensorEntry("a.weight", "BF16", (2, 3), bytes_digest(b"a"))
B = TensorEntry("b.weight", "F32", (), bytes_digest(b"b"))

ENTRIES = st.lists(
    st.builds(
        TensorEntry,
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20),
        st.sampled_from(sorted(ITEM_BYTES)),
        st.lists(st.integers(0, 2**12), max_size=3).map(tuple),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
    min_size=1,
    unique_by=lambda one: one.name,
)


@given(ENTRIES)
def test_a_table_comes_back_in_the_order_of_names(entries: list[TensorEntry]) -> None:
    assert list(unpack_table(pack_table(entries))) == sorted(entries, key=lambda one: one.name)


@pytest.mark.parametrize(
    "other",
    [
        A._replace(name="a.weighs"), A._replace(dtype="F16"), A._replace(shape=(3, 2)), A._replace(shape=(6,)),
        A._replace(sha256=bytes_digest(b"c")),
    ],
)  # fmt: skip
def test_the_digest_is_over_name_dtype_shape_and_content_and_not_over_the_order(other: TensorEntry) -> None:
    assert tensors_digest([A, B]) == tensors_digest([B, A])
    assert tensors_digest([A, B]) != tensors_digest([other, B])


def test_the_digest_is_always_the_same() -> None:
    assert tensors_digest([A, B]) == "dbb5cd447e8417b4eff226406fc85bb729ec175619b073e5d799819ea2c3f141"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    for content in (data, b"RST1" + data, pack_table([A, B])[: len(data)]):
        try:
            unpack_table(content)
        except WeightsFormatError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"RST1" + b"\xff\xff\xff\xff",
        b"RST1" + b"\0\0\0\0",
        pack_table([A, B]) + b"\0",
        pack_table([A, B])[:-1],
        pack_table([A]).replace(b"BF16", b"BF17"),
        pack_table([A]).replace(b"a.weight", b"a.\nweigh"),
        pack_table([A]).replace(b"a.weight", b"a.\xffweigh"),
        pack_table([A]).replace(b"\x02\0\0\0\0\0\0\0\x03", b"\x02\0\0\0\0\xff\xff\xff\x03"),
        pack_table([A, B]).replace(b"b.weight", b"a.weight"),
        pack_table([A, B]).replace(b"b.weight", b"0.weight"),
        b"RST1" + bytes(MAX_TABLE_BYTES),
    ],
    ids=[
        "huge count", "no tensor", "more behind it", "cut", "unknown dtype", "control character", "no UTF-8",
        "huge shape", "one name twice", "not in order", "too large",
    ],
)  # fmt: skip
def test_a_table_out_of_bounds_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsFormatError):
        unpack_table(data)


@pytest.mark.parametrize("entry", [A._replace(name=""), A._replace(name="n" * 501), A._replace(dtype="F4")])
def test_what_a_reader_would_refuse_is_not_written(entry: TensorEntry) -> None:
    with pytest.raises(WeightsFormatError):
        pack_table([entry])
