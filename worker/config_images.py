"""The part of a worker's settings that bounds images beside prompts."""

from __future__ import annotations

from pydantic import Field

from rollstream.schemas.wire.images import MAX_IMAGES, MAX_PIXELS

from .config_queue import QueueSettings


class ImageSettings(QueueSettings):
    """Flags on images; they change nothing for a model that takes text alone."""

    max_images: int = Field(
        8,
        ge=0,
        le=MAX_IMAGES,
        description="Most images of a prompt, for a model that takes images: vLLM's limit_mm_per_prompt for images, "
        "which is 0 for video and audio. It keeps memory for encoding them. 0: none, and the model serves text alone "
        "as if it had no vision tower to run.",
    )
    max_image_pixels: int = Field(
        2**24,
        ge=1,
        le=MAX_PIXELS,
        description="Most pixels of an image, width times height; a larger one is refused before it is decoded. "
        "Decoding takes 4 bytes a pixel, and four times so many pixels are decoded at once.",
    )
    stub_image_token: int | None = Field(
        None,
        ge=0,
        description="The placeholder of an image in prompts of the stub engine, which takes images with it.",
    )
    image_cache_bytes: int = Field(
        2**28,
        ge=0,
        description="Memory for the files of images that came from Redis, so that the next group with one of them need "
        "not fetch it again; 0: none is kept.",
    )
    image_memory_bytes: int = Field(
        4 * 2**30,
        ge=1,
        description="Memory for images in the engine's requests, reckoned as 24 bytes a pixel for each sample of a "
        "group; other groups with images wait, and a group that needs more runs alone among them.",
    )
