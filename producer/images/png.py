"""Pixels as a png: the same bytes for the same pixels wherever zlib is the same. Needs no Pillow."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLORS = {1: 0, 3: 2, 4: 6}
"""Png's number for the colours, by how many values a pixel has."""
_UP = 2
"""The filter of each row: what differs from the row above, which is mostly little."""
_LEVEL = 1


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """The file. `pixels`: uint8 (H, W, C), where C is 1 (grey), 3 (RGB) or 4 (RGBA)."""
    height, width, values = pixels.shape
    rows = np.empty((height, 1 + width * values), np.uint8)
    rows[:, 0] = _UP
    flat = pixels.reshape(height, width * values)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, _COLORS[values], 0, 0, 0])
    body = zlib.compress(rows.data, _LEVEL)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")


def pixels_of(image: Any) -> NDArray[np.uint8]:
    """uint8 (H, W, C) of a `PIL.Image.Image`: grey, RGB and RGBA as they are, all others as RGB or RGBA."""
    if image.mode not in ("L", "RGB", "RGBA"):
        has_alpha = "A" in image.mode or "a" in image.mode or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    array = np.asarray(image, np.uint8)
    return array.reshape(*array.shape[:2], -1)
