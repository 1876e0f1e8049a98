"""The files of a published checkpoint, in a folder that holds exactly what was announced."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollstream.schemas import NameRefusedError
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.policies import Transport

from ..errors import CheckpointRefusedError, VersionRefusedError
from ..weights import checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an announcement says of a checkpoint."""

    version: int
    location: str
    sha256: str
    transport: Transport = "folder"
    base: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checkpoint that was found and verified."""

    folder: Path
    content: checkpoint.Content


class CheckpointSupply:
    """Finds checkpoints below `--checkpoint-dir` and reads them where they are."""

    def __init__(self, *, folder: Path | None) -> None:
        self._folder = folder

    async def stamp(self, wanted: Wanted) -> checkpoint.Stamp:
        """A value that changes when the files of a refused version do, and it is worth another try. Never raises."""
        with suppress(VersionRefusedError):  # preparing it raises the same error
            return await asyncio.to_thread(checkpoint.stamp, self._place(wanted.location))
        return ()

    async def prepare(self, wanted: Wanted) -> Prepared:
        """Bring the files and verify that they are what was announced; generation goes on meanwhile.

        Raises `VersionRefusedError`, `CheckpointRefusedError`.
        """
        folder = self._place(wanted.location)
        given_up = threading.Event()
        try:
            content = await asyncio.to_thread(checkpoint.read_content, folder, given_up)
        finally:
            given_up.set()
        if content.sha256 != wanted.sha256 or not await asyncio.to_thread(checkpoint.unchanged, folder, content):
            problem = "its files are not those that were published: half-written, or changed since"
            raise VersionRefusedError(f"checkpoint {wanted.location}: {problem}")
        if content.spoilt:
            raise CheckpointRefusedError(folder, *content.spoilt)
        return Prepared(folder=folder, content=content)

    async def serving(self, prepared: Prepared) -> None:
        """The engine serves this checkpoint now; what was kept for others may go. Never raises."""

    def _place(self, location: str) -> Path:
        if self._folder is None:
            raise VersionRefusedError(
                "a checkpoint was published, but this worker was started without --checkpoint-dir"
            )
        try:
            return self._folder / check_name("checkpoint", location)
        except NameRefusedError as error:
            raise VersionRefusedError(str(error)) from None
