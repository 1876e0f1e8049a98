"""The images of a prompt, decoded. Files are fetched together; pixels take memory only where the caller has room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rollstream.schemas.wire.images import ImageRef

from ..errors import DataError
from ..requests import Picture
from .decode import pixels_of, refused
from .files import ImageFiles

DECODE_S = 30
"""Seconds that decoding one image may take."""


class ImageSupply:
    """Gives pictures to those who ask; it keeps files and no pixels."""

    def __init__(self, *, files: ImageFiles, max_pixels: int) -> None:
        self._files = files
        self._max_pixels = max_pixels

    async def pictures(self, refs: Sequence[ImageRef]) -> list[Picture]:
        """One for each of `refs`, in order. Raises `DataError`, whose field names the first image with a problem."""
        asked = (self._picture(number, ref) for number, ref in enumerate(refs))
        found = await asyncio.gather(*asked, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if isinstance(one, Picture)]

    async def _picture(self, number: int, ref: ImageRef) -> Picture:
        try:
            data = await self._files.read(ref)
            async with asyncio.timeout(DECODE_S):  # the thread goes on, and ends with the pixels that it may decode
                pixels = await asyncio.to_thread(pixels_of, data, ref, self._max_pixels)
        except TimeoutError:
            raise _at(number, refused(f"decoding it takes more than {DECODE_S} s")) from None
        except DataError as error:
            raise _at(number, error) from None
        return Picture(sha256=ref.sha256, pixels=pixels)


def _at(number: int, error: DataError) -> DataError:
    return DataError(error.code, f"images[{number}]", f"images[{number}]: {error.message}")
