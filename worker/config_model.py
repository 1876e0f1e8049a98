"""The part of a worker's settings that says what is sampled: by which engine, with which model and which adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from . import config_rules, engine_registry
from .config_images import ImageSettings


class ModelSettings(ImageSettings):
    """Flags on the engine, its boot model and its adapters."""

    engine: str = Field(
        engine_registry.DEFAULT,
        description=engine_registry.described(),
    )
    model: Path | None = Field(None, description="Folder of the model in Hugging Face's format.")
    tokenizer: Path | None = Field(
        None, description="Folder of the tokenizer; default: the model's, if it has one. Needed for stop strings."
    )
    adapter_dir: Path | None = Field(
        None, description="Folder with one sub-folder name@version for each LoRA adapter that jobs may name."
    )
    adapter_cache: Path | None = Field(
        None,
        description="Folder for adapters that come through Redis. Each worker uses a sub-folder of its own and removes "
        "it at its end; default: a temporary folder.",
    )
    lora: bool = Field(
        False,
        description="Serve adapters that come through Redis; --adapter-dir and --adapter-cache imply it. It costs "
        "speed even if no job names an adapter.",
    )
    max_adapter_bytes: int = Field(2**30, ge=1, description="Largest adapter that is fetched from Redis.")
    adapter_cache_bytes: int = Field(
        8 * 2**30, ge=1, description="Disk space for fetched adapters; those in use stay in any case."
    )
    max_loras: int = Field(4, ge=1, le=64, description="Adapters that may run in one engine batch.")
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(16, description="Highest rank of an adapter.")

    @field_validator("max_lora_rank", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """A flag is text, and pydantic would compare the text with numbers."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("engine")
    @classmethod
    def _registered(cls, value: str) -> str:
        return config_rules.engine(value)

    @property
    def model_name(self) -> str:
        """The folder's own name, for people, even if `--model` is `.`; links are not followed."""
        return Path(os.path.abspath(self.model)).name if self.model else ""  # noqa: PTH100 - resolve follows links

    @property
    def serves_adapters(self) -> bool:
        """Whether the engine runs with LoRA."""
        return self.lora or self.adapter_dir is not None or self.adapter_cache is not None
