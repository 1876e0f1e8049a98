"""Files that are no images, or too much of one, are refused by name; the others become pixels."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.images import ImageFormat, ImageRef
from rollstream.worker.errors import DataError
from rollstream.worker.images.decode import MAX_SCANS, pixels_of
from tests.support.images.pictures import animated, bomb, file_of

MOST = 10_000


def ref(data: bytes, kind: ImageFormat = "png", width: int = 6, height: int = 4) -> ImageRef:
    digest = hashlib.sha256(data).hexdigest()
    return ImageRef(sha256=digest, nbytes=len(data), format=kind, width=width, height=height)


def saved(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_each_format_gives_its_pixels(kind: ImageFormat) -> None:
    data = file_of(kind, color=(200, 30, 60))

    pixels = pixels_of(data, ref(data, kind), MOST)

    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels.astype(int) - [200, 30, 60]).max() <= 6


def test_alpha_is_dropped_and_orientation_applied_as_transformers_does() -> None:
    see_through = saved(Image.new("RGBA", (6, 4), (10, 20, 30, 0)))
    turned = Image.new("RGB", (6, 4), "white")
    exif = turned.getexif()
    exif[0x0112] = 6
    sideways = saved(turned, "jpeg", exif=exif)

    assert pixels_of(see_through, ref(see_through), MOST)[0, 0].tolist() == [10, 20, 30]
    assert pixels_of(sideways, ref(sideways, "jpeg"), MOST).shape == (6, 4, 3)


def many_scans() -> bytes:
    data = file_of("jpeg")
    at = data.index(b"\xff\xda")
    return data[:at] + b"\xff\xda" * (MAX_SCANS + 1) + data[at:]


def png_of_two_sizes(width: int, height: int) -> bytes:
    """Its first header says 6 x 4; Pillow goes by the last."""
    data, other = file_of("png"), bomb(width, height)
    return data[:33] + other[8:33] + data[33:]


def jpeg_of_two_sizes() -> bytes:
    """Its second frame of 30,000 x 30,000 lies where `FF 00` is a segment to one reader and nothing to another."""
    data = file_of("jpeg")
    scan, frame = data.index(b"\xff\xda"), data.index(b"\xff\xc0")
    large = data[frame : frame + 5] + (30_000).to_bytes(2, "big") * 2 + data[frame + 9 : frame + 19]
    hidden = b"\xff\x00" + large
    while (left := 2 + 0xFFC0 - len(hidden)) > 0:
        length = min(left, 60_000)
        hidden += b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - 4)
    return data[:scan] + hidden + data[scan:]


@pytest.mark.parametrize(
    ("make", "kind", "width", "height", "says"),
    [
        (lambda: b"no image at all, but a text", "png", 6, 4, "no image"),
        (lambda: file_of("png")[:-20], "png", 6, 4, "truncated"),
        (lambda: file_of("jpeg")[:200], "jpeg", 6, 4, "truncated"),
        (lambda: bomb(8000, 8000), "png", 8000, 8000, "--max-image-pixels 10000"),
        (lambda: bomb(100, 100), "png", 100, 100, "cannot be decoded"),
        (lambda: file_of("png", 7, 4), "png", 6, 4, "its file is a png of 7 x 4"),
        (lambda: file_of("jpeg"), "png", 6, 4, "its file is a jpeg"),
        (lambda: animated("webp"), "webp", 6, 4, "animated"),
        (lambda: saved(Image.new("I;16", (6, 4))), "png", 6, 4, "mode I"),
        (many_scans, "jpeg", 6, 4, "scans"),
        (lambda: png_of_two_sizes(80, 40), "png", 6, 4, "different sizes"),
        (lambda: png_of_two_sizes(30_000, 30_000), "png", 6, 4, "different sizes"),
        (jpeg_of_two_sizes, "jpeg", 6, 4, "different sizes"),
    ],
)
def test_what_is_no_image_or_too_much_of_one_is_refused_by_name(
    make: Callable[[], bytes], kind: ImageFormat, width: int, height: int, says: str
) -> None:
    data = make()

    with pytest.raises(DataError) as raised:
        pixels_of(data, ref(data, kind, width, height), MOST)

    assert raised.value.code is ErrorCode.IMAGE_REFUSED
    assert says in raised.value.message


def test_an_exif_of_broken_tags_floods_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    tags = b"".join(struct.pack("<HHII", 0x8000 + tag, 2, 10**6, 8) for tag in range(500))
    exif = b"II*\0" + struct.pack("<IH", 8, 500) + tags
    chunk = len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    data = file_of("png")[:33] + chunk + file_of("png")[33:]

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        pixels = pixels_of(data, ref(data), MOST)

    assert (pixels.shape, told, capfd.readouterr().err) == ((4, 6, 3), [], "")


def test_no_pixels_of_a_bomb_are_decoded() -> None:
    """30,000 x 30,000 pixels do not even fit a reference."""
    data = bomb()

    with pytest.raises(DataError, match=r"30000|pixels"):
        pixels_of(data, ref(data, "png", 100, 100), MOST)
