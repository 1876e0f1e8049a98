"""The `images` of a submit, read once: references for the jobs, and the files that Redis has to keep."""

from __future__ import annotations

import asyncio
import hashlib
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.images.header import ImageFileError, read_header
from rollstream.schemas.times import MEDIA_TTL_S
from rollstream.schemas.wire.images import MAX_IMAGE_BYTES, MAX_IMAGES, MAX_PIXELS, MAX_SIDE, ImageRef

from ..calls.arguments import number
from ..errors import ArgumentError
from .errors import ImagesError
from .png import pixels_of, png_of

if TYPE_CHECKING:
    from PIL import Image

OneImage: TypeAlias = "bytes | Path | Image.Image | NDArray[np.uint8] | ImageRef"
Images: TypeAlias = "Sequence[Sequence[OneImage] | None] | None"
"""For each prompt its images in the order of their placeholders, or None."""

_DEEP = ("I", "F")
"""Modes of Pillow with more than 8 bits a channel: its conversion would make all that is bright white."""

QUOTA_BYTES = 8 * 2**30
"""Most bytes of all images of a policy in Redis, unless a submit sets another bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenImages:
    """The images of a batch."""

    of_prompts: tuple[tuple[ImageRef, ...], ...] = ()
    """One tuple for each prompt; empty if no prompt has any."""
    files: Mapping[ImageRef, bytes | None] = field(default_factory=dict, repr=False)
    """Each image once; None for one that was given by its reference, so that Redis has it already."""
    quota_bytes: int = QUOTA_BYTES
    keep_s: int = MEDIA_TTL_S
    """Seconds that they stay in Redis at least, from each submit on."""

    @property
    def content(self) -> dict[str, Any]:
        """What they add to the content of the batch; nothing if no prompt has any."""
        return {"images": self.digests} if self.of_prompts else {}

    @property
    def digests(self) -> list[list[str]]:
        """Those of each prompt's images."""
        return [[ref.sha256 for ref in refs] for refs in self.of_prompts]

    def of(self, rows: Sequence[int] | NDArray[Any]) -> tuple[tuple[ImageRef, ...], ...]:
        """Those of some prompts; empty if none of them has any."""
        found = tuple(self.of_prompts[row] for row in rows) if self.of_prompts else ()
        return found if any(found) else ()


NO_IMAGES = GivenImages()


async def read_images(given: Images, prompts: int, quota_bytes: Any = QUOTA_BYTES) -> GivenImages:
    """Read what was given for so many prompts; files are read and pixels encoded in a thread.

    Raises `ImagesError`, which names the prompt and the image, and `ArgumentError` for `quota_bytes`.
    """
    quota_bytes = number(quota_bytes)
    if type(quota_bytes) is not int or not 1 <= quota_bytes <= 2**50:
        raise ArgumentError("image_quota_bytes", quota_bytes, f"give an integer from 1 to {2**50}")
    if given is None:
        return NO_IMAGES
    listed = _listed(given, prompts)
    if not any(listed):
        return NO_IMAGES
    return await asyncio.to_thread(_read, listed, quota_bytes)


def files_of(given: Images, prompts: int) -> list[list[bytes]]:
    """The file of each image, for a caller that has to compare them. Raises `ImagesError`."""
    images = _read(_listed(given, prompts), QUOTA_BYTES)
    return [[images.files[ref] or b"" for ref in refs] for refs in images.of_prompts]


def _listed(given: object, prompts: int) -> list[list[Any]]:
    """The images of each prompt, not yet looked at."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence | np.ndarray):
        raise ImagesError(f"got {type(given).__name__}: give a list with the images of each prompt, or None")
    if len(given) != prompts:
        raise ImagesError(f"{len(given)} entries for {prompts} prompts: give one for each, None where it has none")
    return [_of_prompt(row, entry) for row, entry in enumerate(given)]


def _of_prompt(row: int, entry: Any) -> list[Any]:
    if entry is None:
        return []
    if isinstance(entry, str | bytes | Mapping | ImageRef) or not isinstance(entry, Sequence):
        hint = "write a list around it" if _is_one(entry) else "give a list of images, or None"
        raise ImagesError(f"got {type(entry).__name__}: {hint}", row)
    if len(entry) > MAX_IMAGES:
        raise ImagesError(f"{len(entry)} images, a prompt has at most {MAX_IMAGES}", row)
    return list(entry)


def _is_one(entry: object) -> bool:
    return isinstance(entry, bytes | Path | ImageRef | np.ndarray) or _is_pil(entry)


def _is_pil(image: object) -> bool:
    """Whether it is Pillow's: who made one has imported it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _read(listed: list[list[Any]], quota_bytes: int) -> GivenImages:
    files: dict[ImageRef, bytes | None] = {}
    known: dict[int, ImageRef] = {}  # an image that several prompts share is read once
    of_prompts = []
    for row, images in enumerate(listed):
        refs = []
        for place, image in enumerate(images):
            if id(image) not in known:
                known[id(image)] = _kept(row, place, image, files)
            refs.append(known[id(image)])
        of_prompts.append(tuple(refs))
    return GivenImages(of_prompts=tuple(of_prompts), files=files, quota_bytes=quota_bytes)


def _kept(row: int, place: int, image: Any, files: dict[ImageRef, bytes | None]) -> ImageRef:
    """The image's reference; its file is kept in `files`. Raises `ImagesError`."""
    if isinstance(image, ImageRef):
        files.setdefault(image, None)
        return image
    try:
        data = _file_of(image)
        header = read_header(data)
    except ImageFileError as error:
        raise ImagesError(error.problem, row, place) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's, of a file that it reads only now
        raise ImagesError(f"{image}: {getattr(error, 'strerror', None) or error}", row, place) from None
    ref = ImageRef(
        sha256=hashlib.sha256(data).hexdigest(),
        nbytes=len(data),
        format=header.format,
        width=header.width,
        height=header.height,
    )
    files[ref] = data
    return ref


def _file_of(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Path):
        return _content(image)
    if _is_pil(image):
        _check_size(
            image.width, image.height
        )  # before it is decoded: Pillow reads a file when its pixels are asked for
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph with a preview is no animation
            raise ImageFileError("it is animated: give one frame")
        if image.mode.startswith(_DEEP):
            told = f"its pixels are of mode {image.mode}, which 8 bits a channel do not hold: scale them and convert it"
            raise ImageFileError(told)
        return png_of(pixels_of(image))
    if isinstance(image, np.ndarray):
        return png_of(_pixels(image))
    hint = "; a path is Path(...)" if isinstance(image, str) else ""
    hint = hint or ("; an array is image.numpy()" if hasattr(image, "numpy") else "")
    told = f"got {type(image).__name__}: give bytes, a Path, a PIL image, or uint8 (H, W, 3){hint}"
    raise ImageFileError(told)


def _content(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ImageFileError(f"{path} is no file")
    with path.open("rb") as file:
        data = file.read(MAX_IMAGE_BYTES + 1)  # it may have grown since
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageFileError(f"{path} has {found.st_size} bytes, at most {MAX_IMAGE_BYTES} are sent: scale it down")
    return data


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageFileError(f"an array of {image.dtype} {image.shape}: expected uint8 (height, width, 3), RGB")
    _check_size(image.shape[1], image.shape[0])
    return np.ascontiguousarray(image)


def _check_size(width: int, height: int) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageFileError(f"{width} x {height} pixels: a side has 1 to {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageFileError(f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed: scale it down")
