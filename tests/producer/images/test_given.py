"""Images as trainers have them: each form is read once, the same pixels make the same file, what is wrong is named."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rollstream import ArgumentError, ImageRef, ImagesError, PromptsError
from rollstream.producer.images.given import read_images
from tests.support.images.pictures import bomb, file_of

PNG = file_of("png")
PIXELS = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)


def pixels_in(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).tolist()


async def the_file(image: Any) -> tuple[ImageRef, bytes]:
    ((ref, data),) = (await read_images([[image]], 1)).files.items()
    assert data is not None
    return ref, data


async def test_bytes_and_files_keep_their_encoding(tmp_path: Path) -> None:
    jpeg = file_of("jpeg", 30, 20)
    (tmp_path / "a").write_bytes(jpeg)

    given = await read_images([[jpeg, tmp_path / "a"], None, [PNG]], 3)

    first = ImageRef(sha256=hashlib.sha256(jpeg).hexdigest(), nbytes=len(jpeg), format="jpeg", width=30, height=20)
    assert given.of_prompts[:2] == ((first, first), ())
    assert [ref.format for ref in given.of_prompts[2]] == ["png"]
    assert sorted(given.files.values(), key=len) == sorted([jpeg, PNG], key=len)  # type: ignore[arg-type] # all are bytes


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_pil_image_is_sent_with_its_pixels(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)

    ref, data = await the_file(image)

    sent = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "LA": "RGBA"}.get(mode, "RGB")
    assert (ref.format, ref.width, ref.height) == ("png", 5, 2)
    assert pixels_in(data) == np.asarray(image.convert(sent)).tolist()


async def test_an_array_is_sent_with_its_pixels_whatever_its_layout() -> None:
    turned = np.asfortranarray(PIXELS)

    (one, data), (other, _) = await the_file(PIXELS), await the_file(turned)

    assert one == other
    assert pixels_in(data) == PIXELS.tolist()


async def test_an_image_that_prompts_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []

    def noted(pixels: Any) -> bytes:
        encoded.append(pixels)
        return PNG

    monkeypatch.setattr("rollstream.producer.images.given.png_of", noted)

    given = await read_images([[PIXELS], [PIXELS, PIXELS]], 2)

    assert len(encoded) == 1
    assert [len(refs) for refs in given.of_prompts] == [1, 2]


async def test_a_batch_without_an_image_has_none() -> None:
    none: list[Any] = [None, [None, None], [[], None]]
    for images in none:
        given = await read_images(images, 2)
        assert (given.of_prompts, given.files) == ((), {})


class Misleading:
    def __len__(self) -> int:
        return 1


BAD: dict[str, tuple[Any, str]] = {
    "one alone": (PNG, "images: got bytes: give a list with the images of each prompt, or None"),
    "too few": ([[PNG]], "images: 1 entries for 2 prompts: give one for each"),
    "an image for a list": ([None, PNG], "images, row 1: got bytes: write a list around it"),
    "an array for a list": ([None, PIXELS], "images, row 1: got ndarray: write a list around it"),
    "a text for a list": ([None, "cat.png"], "images, row 1: got str: give a list of images, or None"),
    "verl's dictionary": ([None, {"image": [PNG]}], "images, row 1: got dict: give a list of images, or None"),
    "a text": ([None, ["cat.png"]], "images, row 1: image 0: got str: give bytes, a Path, a PIL image, or uint8"),
    "a tensor": ([None, [torch.zeros(2, 2, 3)]], "an array is image.numpy()"),
    "something": ([None, [Misleading()]], "images, row 1: image 0: got Misleading"),
    "no image": ([[PNG, b"hello"], None], "images, row 0: image 1: no image, it begins with b'hello'"),
    "a bomb": ([None, [bomb()]], "images, row 1: image 0: 30000 x 30000 pixels are more than"),
    "floats": ([None, [PIXELS / 255]], "an array of float64 (2, 5, 3): expected uint8 (height, width, 3)"),
    "channels first": ([None, [PIXELS.transpose(2, 0, 1)]], "an array of uint8 (3, 2, 5): expected uint8"),
    "a bomb of pixels": ([None, [np.broadcast_to(np.uint8(0), (30_000, 30_000, 3))]], "30000 x 30000 pixels"),
    "16 bits": ([None, [Image.new("I;16", (2, 2), 30_000)]], "images, row 1: image 0: its pixels are of mode I;16"),
    "numbers": ([None, [Image.new("F", (2, 2), 0.5)]], "its pixels are of mode F, which 8 bits a channel do not hold"),
    "no pixels": ([None, [np.zeros((0, 4, 3), np.uint8)]], "4 x 0 pixels: a side has 1 to 65535"),
    "many": ([None, [PNG] * 65], "images, row 1: 65 images, a prompt has at most 64"),
    "no file": ([None, [Path("/nowhere/cat.png")]], "/nowhere/cat.png: No such file or directory"),
    "a folder": ([None, [Path("/")]], "images, row 1: image 0: / is no file"),
}


@pytest.mark.parametrize(("images", "said"), BAD.values(), ids=BAD)
async def test_what_cannot_be_used_is_named(images: Any, said: str) -> None:
    with pytest.raises(ImagesError) as caught:
        await read_images(images, 2)

    assert said in str(caught.value)
    assert isinstance(caught.value, PromptsError)


async def test_a_file_that_is_not_to_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**34)

    for name, said in (("pipe", "is no file"), ("large", "17179869184 bytes, at most 16777216 are sent")):
        with pytest.raises(ImagesError, match=said):
            await read_images([[tmp_path / name]], 1)


async def test_a_pil_image_that_cannot_be_decoded_is_named() -> None:
    half = file_of("jpeg", 300, 200)[:1000]
    for data, said in ((half, "image file is truncated"), (bomb(9000, 9000), "9000 x 9000 pixels")):
        with Image.open(io.BytesIO(data)) as image, pytest.raises(ImagesError, match=said) as caught:
            await read_images([None, [image]], 2)
        assert (caught.value.row, caught.value.image) == (1, 0)


@pytest.mark.parametrize("quota", [0, -1, 1.5, "8GB", None, True])
async def test_a_quota_is_a_number_of_bytes(quota: Any) -> None:
    with pytest.raises(ArgumentError, match="image_quota_bytes"):
        await read_images(None, 1, quota)
