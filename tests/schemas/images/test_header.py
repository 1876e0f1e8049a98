"""Headers of images: what may be sent is read without a pixel, and all else is refused by name."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rollstream.schemas.images.header import Header, ImageFileError, read_header
from rollstream.schemas.wire.images import MAX_SIDE
from tests.support.images.pictures import animated, bomb, file_of

PNG, JPEG, WEBP = (file_of(kind) for kind in ("png", "jpeg", "webp"))
GOOD = {
    "png": PNG,
    "grey png": file_of("png", color=7),
    "jpeg": JPEG,
    "progressive jpeg": file_of("jpeg", 300, 200, progressive=True),
    "jpeg with an icc profile": file_of("jpeg", icc_profile=b"\0" * 70_000),
    "webp": WEBP,
    "lossless webp": file_of("webp", lossless=True),
    "webp with an exif part": file_of("webp", exif=b"Exif\0\0" + b"\0" * 20),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_header_says_what_pillow_says(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        told = Header(format=image.format.lower(), width=image.width, height=image.height)  # type: ignore[arg-type, union-attr] # Pillow's names

    assert read_header(data) == told


BAD = {
    "nothing": (b"", "it is empty"),
    "text": (b"hello world", "no image, it begins with b'hello wo': give a png, jpeg or webp"),
    "gif": (file_of("gif"), "a GIF: give a png, jpeg or webp"),
    "bmp": (file_of("bmp"), "a BMP"),
    "tiff": (file_of("tiff"), "a TIFF"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
    "url": (b"https://example.org/cat.png", "a URL, which is not fetched"),
    "data url": (b"data:image/png;base64,iVBOR", "base64 has to be decoded first"),
    "avif": (b"\0\0\0\x1cftypavif" + b"\0" * 40, "an AVIF, HEIC or video"),
    "animated png": (animated("png"), "it is animated: give one frame"),
    "animated webp": (animated("webp"), "it is animated: give one frame"),
    "bomb": (bomb(), "30000 x 30000 pixels are more than the 67108864 allowed"),
    "long bomb": (bomb(100_000, 1), "100000 x 1 pixels: a side has 1 to 65535"),
    "no width": (bomb(0, 5), "0 x 5 pixels: a side has 1 to 65535"),
    "too many bytes": (PNG + b"\0" * 2**24, "bytes, at most 16777216 are sent"),
    "png magic alone": (PNG[:8], "it is truncated"),
    "png of half a header": (PNG[:20], "it is truncated"),
    "png without its end": (PNG[:-12], "it is truncated"),
    "png without pixels": (PNG[:33] + PNG[-12:], "it is truncated"),
    "png with another checksum": (PNG[:16] + b"\x7f" + PNG[17:], "its checksum is another"),
    "png without a header": (PNG[:8] + PNG[33:], "a png without a header"),
    "jpeg magic alone": (JPEG[:3], "it is truncated"),
    "jpeg of half a header": (JPEG[:80], "it is truncated"),
    "jpeg without its end": (JPEG[:-30], "it is truncated"),
    "jpeg of nothing": (b"\xff\xd8\xff\xd9", "it is truncated"),
    "damaged jpeg": (JPEG[:4] + b"\0\x04" + JPEG[6:], "a jpeg whose header is damaged"),
    "webp magic alone": (WEBP[:12], "it is truncated"),
    "webp without its end": (WEBP[:-1], "it is truncated"),
    "damaged webp": (WEBP[:12] + b"VP9 " + WEBP[16:], "a webp whose header is damaged"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_what_is_no_image_that_may_be_sent_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(ImageFileError) as caught:
        read_header(data)

    assert said in caught.value.problem


@given(data=st.sampled_from([PNG, JPEG, WEBP]), cut=st.integers(0, 2000), more=st.binary(max_size=40))
def test_whatever_is_given_the_answer_is_a_header_or_an_error(data: bytes, cut: int, more: bytes) -> None:
    with suppress(ImageFileError):
        assert 1 <= read_header(data[:cut] + more).width <= MAX_SIDE
