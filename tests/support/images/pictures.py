"""Small images, and files that pretend to be images."""

from __future__ import annotations

import io
import zlib
from typing import Any

from PIL import Image


def file_of(kind: str, width: int = 6, height: int = 4, color: Any = (200, 30, 60), **options: Any) -> bytes:
    """An image of one colour as a file."""
    written = io.BytesIO()
    mode = "RGB" if isinstance(color, tuple) else "L"
    Image.new(mode, (width, height), color).save(written, kind, **options)
    return written.getvalue()


def animated(kind: str) -> bytes:
    """Two frames."""
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    written = io.BytesIO()
    frames[0].save(written, kind, save_all=True, append_images=frames[1:])
    return written.getvalue()


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A png of some hundred bytes whose header is right and says so many pixels."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
