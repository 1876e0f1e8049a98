"""An adapter from the weight store: its files copied to where adapters are kept, and the digest of the copy."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from rollstream.schemas.keys import POLICY_ADAPTER
from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.weights.tensor_digest import tensors_digest
from rollstream.schemas.wire.weights import MAX_CONFIG_BYTES

from ..errors import CheckpointRefusedError, adapter_refused
from ..weights.checkpoint import CONFIG
from ..weights.checkpoint_content import tensor_entries

STORED_WEIGHTS = "model.safetensors"
"""The weights' name where versions from the store are kept, of checkpoints and adapters alike."""


def stored_name(location: str, sha256: str) -> str:
    """The adapter's name in this worker: the same content has the same, under whatever number it is announced."""
    number = location.partition("-")[0]
    version = number if number.isascii() and number.isdecimal() and len(number) <= 10 else "0"
    return f"{POLICY_ADAPTER}{sha256[:16]}@{int(version)}"


def stored_bytes(source: Path) -> int:
    """Size of the adapter whose files lie in `source`. Blocks. Raises `OSError`."""
    return sum((source / name).stat().st_size for name in (CONFIG, STORED_WEIGHTS))


async def copy_stored(name: str, source: Path, sha256: str, folder: Path) -> None:
    """Make `folder`, an adapter as PEFT writes it, of the files in `source`.

    Raises `OSError`, and `DataError` (`adapter_refused`) for a copy that has not the digest `sha256`.
    """
    await asyncio.to_thread(_copy, source, folder)
    if await asyncio.to_thread(stored_digest, folder) != sha256:
        raise adapter_refused(name, "its copy on the worker's disk has other bytes than were published")


def stored_digest(folder: Path) -> str:
    """The digest with which a version in the store is announced, of the adapter in `folder`; "" if it has none."""
    with suppress(OSError, CheckpointRefusedError):
        with open_regular(folder / CONFIG_FILE) as file:
            config = file.read(MAX_CONFIG_BYTES + 1)
        return tensors_digest(tensor_entries(folder / WEIGHTS_FILE), config)
    return ""


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(source / CONFIG, folder / CONFIG_FILE)
    shutil.copyfile(source / STORED_WEIGHTS, folder / WEIGHTS_FILE)
