"""Format and size of an image, by its file's header: a file may be small and its pixels more than a machine holds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import SchemaError
from ..wire.images import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_SIDE, ImageFormat

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<?xml": "an XML file",
    b"data:": "a data: URL, whose base64 has to be decoded first",
    b"http": "a URL, which is not fetched",
}
_FORMATS = "give a png, jpeg or webp"
_TRUNCATED = "it is truncated: it ends before its header says"
_ANIMATED = "it is animated: give one frame"
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of JPEG that have no length."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN = 0xD9, 0xDA
_VP8_ANIMATED = 0x02


class ImageFileError(SchemaError):
    """Raised when a file is no image that may be sent: no png, jpeg or webp, truncated, animated, or too large."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the header of an image says; sides in pixels."""

    format: ImageFormat
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Format and size. The file's parts are there by their lengths; whether its pixels can be decoded is not looked at.

    Raises `ImageFileError`.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageFileError(f"{len(data)} bytes, at most {MAX_IMAGE_BYTES} are sent: scale it down")
    if data.startswith(_PNG):
        return _checked("png", *_png_size(data))
    if data.startswith(_JPEG):
        return _checked("jpeg", *_jpeg_size(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _checked("webp", *_webp_size(data))
    raise ImageFileError(f"{_named(data)}: {_FORMATS}")


def _checked(kind: ImageFormat, width: int, height: int) -> Header:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageFileError(f"{width} x {height} pixels: a side has 1 to {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageFileError(f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed: scale it down")
    return Header(format=kind, width=width, height=height)


def _named(data: bytes) -> str:
    if not data:
        return "it is empty"
    if data[4:8] == b"ftyp":
        return "an AVIF, HEIC or video"
    told = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
    return told or f"no image, it begins with {data[:8]!r}"


def _png_size(data: bytes) -> tuple[int, int]:
    chunks = _png_chunks(data)
    kind, at, length = next(chunks, (b"", 0, 0))
    if kind != b"IHDR" or length != 13:
        raise ImageFileError("a png without a header" if kind else _TRUNCATED)
    if zlib.crc32(data[at - 4 : at + 13]) != int.from_bytes(data[at + 13 : at + 17], "big"):
        raise ImageFileError("a png whose header is damaged (its checksum is another)")
    kinds = {kind for kind, _, _ in chunks}
    if b"acTL" in kinds:
        raise ImageFileError(_ANIMATED)
    if not {b"IDAT", b"IEND"} <= kinds:
        raise ImageFileError(_TRUNCATED)
    return int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 8], "big")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place of its data and length of each chunk that is there as a whole, up to the last one."""
    at, kind = len(_PNG), b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            return
        yield kind, at + 8, length
        at += 12 + length


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] | None = None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ImageFileError("a jpeg whose header is damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in (_END, _SCAN):
            break
        else:
            if marker in _FRAMES and at + 9 <= len(data):
                size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    if size is None or data.find(b"\xff\xd9", at) < 0 or data[at + 1] == _END:
        raise ImageFileError(_TRUNCATED)
    return size


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ImageFileError(_TRUNCATED)
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        if body[0] & _VP8_ANIMATED:
            raise ImageFileError(_ANIMATED)
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise ImageFileError("a webp whose header is damaged")
