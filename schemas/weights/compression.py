"""Chunks of weights, compressed with zstd where both sides have it: the extra `weights` installs `zstandard`."""

from __future__ import annotations

from typing import Any, Literal, get_args

from .errors import WeightsFormatError

Compression = Literal["none", "zstd"]
COMPRESSIONS: tuple[str, ...] = get_args(Compression)

_WHAT = "compressed chunk"
_LEVEL = 1
"""Higher levels take several times as long and save few bytes of numbers."""
_LONGEST_WINDOW = 2**27


def compressed(data: bytes, compression: Compression) -> bytes:
    """`data` as it travels. Raises `WeightsFormatError` if zstd is not installed."""
    if compression == "none":
        return data
    packed: bytes = _zstandard().ZstdCompressor(level=_LEVEL, write_content_size=True).compress(data)
    return packed


def decompressed(data: bytes, compression: Compression, num_bytes: int) -> bytes:
    """The `num_bytes` bytes that were compressed: never more are allocated.

    Raises `WeightsFormatError`, also if zstd is not installed.
    """
    if compression == "none":
        if len(data) != num_bytes:
            raise WeightsFormatError(_WHAT, f"{len(data)} bytes, {num_bytes} were announced")
        return data
    zstandard = _zstandard()
    try:
        told = zstandard.frame_content_size(data)
        if told != num_bytes:
            raise WeightsFormatError(_WHAT, f"it says that it holds {told} bytes, {num_bytes} were announced")
        plain: bytes = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompress(
            data, max_output_size=num_bytes
        )
    except zstandard.ZstdError as error:
        raise WeightsFormatError(_WHAT, f"not readable: {error}") from None
    if len(plain) != num_bytes:
        raise WeightsFormatError(_WHAT, f"it holds {len(plain)} bytes, {num_bytes} were announced")
    return plain


def compression_problem(compression: str) -> str | None:
    """Why this process cannot use it, and what to do; None if it can."""
    if compression not in COMPRESSIONS:
        return f"there is no compression {compression[:40]!r}: write {' or '.join(COMPRESSIONS)}"
    if compression == "zstd":
        try:
            _zstandard()
        except WeightsFormatError as error:
            return error.problem
    return None


def _zstandard() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - an extra, and only some use it
    except ImportError:
        raise WeightsFormatError(_WHAT, "zstd is not installed here: pip install 'rollstream[weights]'") from None
    return zstandard
