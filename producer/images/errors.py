"""What goes wrong with images."""

from __future__ import annotations

from ..errors import ProducerError, PromptsError


class ImagesError(PromptsError):
    """Raised when `images` cannot be used; nothing was queued.

    `row` is the prompt and `image` the image among its own, if the fault is at one place.
    """

    def __init__(self, problem: str, row: int | None = None, image: int | None = None) -> None:
        super().__init__("images", problem if image is None else f"image {image}: {problem}", row)
        self.image = image


class ImagesGoneError(ProducerError):
    """Raised when Redis has images no more that a batch needs; nothing was queued. `sha256`: their digests."""

    def __init__(self, sha256: list[str], policy: str) -> None:
        more = f" and {len(sha256) - 1} more" if len(sha256) > 1 else ""
        super().__init__(
            f"image {sha256[0]}{more} of policy {policy!r}: Redis has it no more (a day after its last use, or it was "
            "evicted): give the images themselves, as `images`"
        )
        self.sha256 = sha256
        self.policy = policy
