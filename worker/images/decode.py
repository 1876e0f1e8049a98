"""Pixels of an image's file, which anybody may have written: bounded before Pillow opens it, or refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode
from rollstream.schemas.images.header import ImageFileError, read_header
from rollstream.schemas.wire.images import ImageRef

from ..errors import DataError

MAX_SCANS = 256
"""Most scans of a jpeg. Each goes over all pixels, and one of some bytes over none of the file."""

_SCAN = b"\xff\xda"
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_FAILURES = (
    OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, AssertionError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises for files that are none, or broken."""


def pixels_of(data: bytes, ref: ImageRef, max_pixels: int) -> NDArray[np.uint8]:
    """(height, width, 3), RGB: turned as its EXIF orientation says, without its alpha channel. Blocks.

    Raises `DataError` (`image_refused`) for a file that is not what the job says, is too large, or cannot be decoded.
    """
    _check_header(data, ref, max_pixels)
    if ref.format == "jpeg" and data.count(_SCAN) > MAX_SCANS:
        raise refused(f"the jpeg has more than {MAX_SCANS} scans, and each takes as long as the whole image")
    try:
        return _decoded(data, ref)
    except DataError:
        raise
    except _FAILURES as error:
        raise refused(f"it cannot be decoded: {type(error).__name__}: {error}") from None


def refused(problem: str) -> DataError:
    """The error for an image that no worker can use; which of the prompt's it is, its caller knows."""
    return DataError(ErrorCode.IMAGE_REFUSED, "images", problem)


def _check_header(data: bytes, ref: ImageRef, max_pixels: int) -> None:
    try:
        header = read_header(data)
    except ImageFileError as error:
        raise refused(error.problem) from None
    if (header.format, header.width, header.height) != (ref.format, ref.width, ref.height):
        problem = f"its file is a {header.format} of {header.width} x {header.height}, and the job says a {ref.format}"
        raise refused(f"{problem} of {ref.width} x {ref.height}")
    if ref.width * ref.height > max_pixels:
        raise refused(
            f"{ref.width} x {ref.height} pixels are more than the worker's --max-image-pixels {max_pixels}: scale it "
            "down, as the model's processing would do"
        )


def _decoded(data: bytes, ref: ImageRef) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps  # noqa: PLC0415 - a worker without images does without it

    # Pillow warns of each of the 65,535 tags of an EXIF that may be broken, and Python remembers each warning.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        opened = Image.open(io.BytesIO(data), formats=(ref.format.upper(),))
    except Image.DecompressionBombError as error:  # its header may say two sizes, of which Pillow takes the other
        raise refused(f"its parts say different sizes: {error}") from None
    with opened as image:
        if image.size != (ref.width, ref.height):
            raise refused("its parts say different sizes")
        if image.mode not in _MODES:
            raise refused(f"its pixels are of mode {image.mode}, which 8 bits a channel do not hold: convert it")
        image.load()
        with suppress(*_FAILURES):  # where its EXIF is broken, it is taken as it lies there
            ImageOps.exif_transpose(image, in_place=True)
        return np.array(image.convert("RGB"), np.uint8)
