"""A compressed chunk never becomes more bytes than were announced; without zstandard zstd is refused by name."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from rollstream.schemas.weights.compression import compressed, compression_problem, decompressed
from rollstream.schemas.weights.errors import WeightsFormatError

DATA = bytes(range(256)) * 40


def test_without_compression_the_size_is_checked() -> None:
    assert decompressed(compressed(DATA, "none"), "none", len(DATA)) == DATA
    with pytest.raises(WeightsFormatError, match=f"{len(DATA)} bytes, 5 were announced"):
        decompressed(DATA, "none", 5)


def test_zstd_gives_the_bytes_back() -> None:
    pytest.importorskip("zstandard")

    packed = compressed(DATA, "zstd")

    assert len(packed) < len(DATA) / 4
    assert decompressed(packed, "zstd", len(DATA)) == DATA


def test_a_chunk_that_grows_beyond_what_was_announced_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = bytes(2**26)
    told = zstandard.ZstdCompressor().compress(bomb)
    untold = zstandard.ZstdCompressor(write_content_size=False).compress(bomb)

    tracemalloc.start()
    for packed in (told, untold, told[:-3], b"no zstd"):
        with pytest.raises(WeightsFormatError):
            decompressed(packed, "zstd", 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


def test_without_zstandard_zstd_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)

    assert "pip install 'rollstream[weights]'" in str(compression_problem("zstd"))
    assert "write none or zstd" in str(compression_problem("lzma"))
    assert compression_problem("none") is None
    with pytest.raises(WeightsFormatError, match="zstd is not installed"):
        decompressed(b"", "zstd", 1)
