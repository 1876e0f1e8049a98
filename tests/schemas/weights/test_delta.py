"""A delta gives exactly the bits that were published, and hostile bytes change nothing outside their tensor."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollstream.schemas.weights import delta
from rollstream.schemas.weights.delta import (
    RANGE_BYTES,
    Array,
    changed_records,
    count_changed,
    read_records,
    whole_records,
)
from rollstream.schemas.weights.errors import WeightsFormatError
from rollstream.schemas.weights.tensor_digest import ITEM_BYTES, TensorEntry

WIDTHS = {1: "U8", 2: "BF16", 4: "F32", 8: "F64"}


def table(values: Array, width: int) -> list[TensorEntry]:
    return [TensorEntry("w", WIDTHS[width], (values.size // width,), "0" * 64)]


def applied(chunk: bytes, entries: list[TensorEntry], before: Array) -> Array:
    target = before.copy()
    for record in read_records(chunk, entries):
        record.apply(target)
    return target


def joined(records: Iterator[delta.Range]) -> bytes:
    return b"".join(one.record for one in records)


def random_change(seed: int, width: int, size: int, changed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, size * width, np.uint8)
    after = before.copy()
    places = rng.choice(size, min(changed, size), replace=False)
    after.view(f"u{width}")[places] ^= 1
    return before, after


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5000), st.integers(0, 5000))
def test_changed_elements_arrive(seed: int, width: int, size: int, changed: int) -> None:
    before, after = random_change(seed, width, size, changed)

    chunk = joined(changed_records(0, after, before, width))

    assert np.array_equal(applied(chunk, table(before, width), before), after)
    assert count_changed(after, before, width) == min(changed, size)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("share", [0.000003, 0.0005, 0.02, 0.3, 0.9, 1.0])
def test_a_tensor_of_several_ranges_arrives_and_no_delta_is_larger_than_all_bytes(width: int, share: float) -> None:
    size = 5 * RANGE_BYTES // (2 * width) + 7
    before, after = random_change(1, width, size, int(size * share))

    chunk = joined(changed_records(0, after, before, width))

    assert np.array_equal(applied(chunk, table(before, width), before), after)
    assert len(chunk) <= len(joined(whole_records(0, after, width)))


@pytest.mark.parametrize(
    ("places", "size"),
    [
        ([0], 1),
        ([254], 400),
        ([255], 400),
        ([256, 257], 600),
        ([0, 510], 600),
        ([65_535], 100_000),
        ([99_999], 100_000),
    ],
)
def test_gaps_at_the_edges_of_their_coding_arrive(places: list[int], size: int) -> None:
    before = np.zeros(2 * size, np.uint8)
    after = before.copy()
    after.view("u2")[places] = 7

    chunk = joined(changed_records(0, after, before, 2))

    assert np.array_equal(applied(chunk, table(before, 2), before), after)


def test_signs_of_zero_and_what_a_nan_carries_survive() -> None:
    before = np.array([0.0, -0.0, np.nan, 1.0], np.float32).view(np.uint8)
    after = before.copy()
    after.view("u4")[:3] = 0x8000_0000, 0, 0x7FC0_1234

    chunk = joined(changed_records(0, after, before, 4))

    assert applied(chunk, table(before, 4), before).tobytes() == after.tobytes()


def test_applying_twice_is_harmless() -> None:
    before, after = random_change(3, 2, 3000, 50)
    chunk = joined(changed_records(0, after, before, 2))

    once = applied(chunk, table(before, 2), before)

    assert np.array_equal(applied(chunk, table(before, 2), once), after)


def test_equal_tensors_and_empty_ones_need_no_record() -> None:
    values, empty = np.ones(64, np.uint8), np.zeros(0, np.uint8)

    assert joined(changed_records(0, values, values.copy(), 2)) == b""
    assert joined(whole_records(0, empty, 2)) == b""


@pytest.mark.parametrize(("share", "bytes_each"), [(0.01, 3.3), (0.05, 3.1), (0.2, 2.7)])
def test_a_change_of_bfloat16_costs_about_three_bytes(share: float, bytes_each: float) -> None:
    size = 2_000_000
    before, after = random_change(5, 2, size, int(size * share))

    nbytes = len(joined(changed_records(0, after, before, 2)))

    assert nbytes <= bytes_each * size * share


BEFORE, AFTER = random_change(7, 2, 3000, 40)
GOOD = joined(changed_records(0, AFTER, BEFORE, 2))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_stays_within_the_tensor(place: int, value: int) -> None:
    spoilt = bytearray(GOOD)
    spoilt[place] = value
    room = np.zeros(3 * 6000, np.uint8)

    try:
        for record in read_records(bytes(spoilt), table(room[6000:12_000], 2)):
            record.apply(room[6000:12_000])
    except WeightsFormatError:
        pass

    assert not room[:6000].any()
    assert not room[12_000:].any()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    entries = [TensorEntry("w", "BF16", (100,), "0" * 64)]
    target = np.zeros(200, np.uint8)
    try:
        for record in read_records(data, entries):
            record.apply(target)
    except WeightsFormatError:
        pass


def header(tensor: int, coding: int, start: int, count: int, changed: int, place_bytes: int) -> bytes:
    return struct.pack("<IBxxxQIII", tensor, coding, start, count, changed, place_bytes)


@pytest.mark.parametrize(
    "data",
    [
        header(1, 0, 0, 1, 1, 0) + b"..",
        header(0, 0, 2**63, 1, 1, 0) + b"..",
        header(0, 0, 0, 2**32 - 1, 2**32 - 1, 0),
        header(0, 0, 100, 1, 1, 0) + b"..",
        header(0, 0, 0, 2, 1, 0) + b"..",
        header(0, 1, 0, 100, 0, 0),
        header(0, 1, 0, 100, 1, 1) + b"\x64" + b"..",
        header(0, 1, 0, 100, 1, 1) + b"\xff" + b"..",
        header(0, 1, 0, 100, 2, 2) + b"\x63\x00" + b"....",
        header(0, 2, 0, 100, 1, 1) + b"\x00" + b"..",
        header(0, 3, 0, 100, 2, 13) + b"\x01" + 12 * b"\0" + b"....",
        header(0, 3, 0, 100, 1, 13) + 12 * b"\0" + b"\x80" + b"..",
        header(0, 9, 0, 100, 1, 0) + b"..",
        header(0, 0, 0, 1, 1, 0) + b".",
        header(0, 0, 0, 1, 1, 0)[:-1],
    ],
    ids=[
        "no such tensor", "start beyond it", "huge range", "one beyond its end", "part of a whole", "nothing changed",
        "place beyond the range", "gap without an end", "places beyond the range", "half a gap", "a bit too few",
        "a bit beyond the range", "unknown coding", "truncated values", "truncated header",
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(data: bytes) -> None:
    entries = [TensorEntry("w", "BF16", (100,), "0" * 64)]

    with pytest.raises(WeightsFormatError):
        list(read_records(data, entries))


def test_memory_follows_from_the_chunk_and_not_from_its_numbers() -> None:
    entries = [TensorEntry("w", "BF16", (2**32,), "0" * 64)]
    tracemalloc.start()
    with pytest.raises(WeightsFormatError):
        list(read_records(header(0, 3, 0, 2**32 - 1, 2**31, 2**29) + b"..", entries))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


def test_every_dtype_has_a_width_that_records_know() -> None:
    assert set(ITEM_BYTES.values()) <= set(WIDTHS)
    assert sys.byteorder == "little"  # views of raw bytes are numbers of this machine only then
