"""A checkpoint's tensors in memory that other processes can map: read once for all replicas and ranks."""

from __future__ import annotations

import asyncio
import os
import threading
from itertools import groupby
from pathlib import Path
from weakref import WeakValueDictionary

from rollstream.schemas.weights.regular_files import open_regular

from ....errors import CheckpointRefusedError, NotStagedError
from ....weights import checkpoint
from ....weights.checkpoint_content import Content
from . import memory
from .layout import Layout, PlacedTensor, read_layout
from .memory import Memory, NoRoomError

_PIECE = 8 * 2**20
"""A call reads or writes so much at once: large, since Python's lock is free during the call and wanted after it."""

_Key = tuple[Path, str | None]
_in_use: WeakValueDictionary[_Key, SharedWeights] = WeakValueDictionary()
"""All that are in use in this process: replicas, which prepare the same checkpoint at the same time, share one."""


class SharedWeights:
    """The tensors of one checkpoint. `hold` and `drop` count who needs them; the last one to drop ends the reading.

    `layout` is known and all bytes are there once `read` has returned. Nothing changes after that.
    """

    def __init__(self, *, folder: Path, content: Content) -> None:
        self._folder = folder
        self._content = content
        self._holders = 0
        self._given_up = threading.Event()
        self._reading: asyncio.Task[Layout] | None = None
        self._memory: Memory | None = None
        self._kept = False
        self.layout = Layout(tensors=(), regions=())

    @property
    def memory(self) -> Memory:
        """Where the bytes are, once `read` has returned."""
        if self._memory is None:
            raise RuntimeError("the weights were not read")
        return self._memory

    def holds(self, folder: Path, content: Content) -> bool:
        """Whether it was made for just these files."""
        return folder == self._folder and content.sha256 is not None and content.sha256 == self._content.sha256

    def hold(self) -> None:
        """Need it until `drop` is called."""
        self._holders += 1

    async def read(self) -> None:
        """Have the files read, once. Raises `CheckpointRefusedError`, `NotStagedError`."""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._fill))
            self._reading.add_done_callback(self._filled)
        self.layout = await asyncio.shield(self._reading)

    def drop(self, *, keep: bool = False) -> None:
        """Free the memory, or keep it for the next checkpoint, unless another replica needs it."""
        self._holders -= 1
        if self._holders == 0:
            self._kept = keep
            self._given_up.set()
            _forget(self)
            if self._reading is None or self._reading.done():
                self._release()

    def _filled(self, reading: asyncio.Task[Layout]) -> None:
        if not reading.cancelled():
            reading.exception()  # seen: `read` raises it, unless its caller was cancelled
        if self._given_up.is_set():
            self._release()

    def _release(self) -> None:
        held, self._memory = self._memory, None
        if held is not None:
            (memory.keep if self._kept else memory.close)(held)

    def _fill(self) -> Layout:
        try:
            return self._copied()
        except NoRoomError as error:
            raise NotStagedError(self._folder, str(error)) from error
        except OSError as error:
            raise NotStagedError(self._folder, error.strerror or str(error)) from error

    def _copied(self) -> Layout:
        layout = read_layout(self._folder, self._content)
        self._memory = memory.take(layout.regions)
        buffer = memoryview(bytearray(_PIECE))
        in_files = sorted(layout.tensors, key=lambda tensor: (tensor.file, tensor.start))
        for file, tensors in groupby(in_files, lambda tensor: tensor.file):
            with open_regular(self._folder / file) as opened:
                for tensor in tensors:
                    self._copy_one(opened.fileno(), self._memory.descriptor, tensor, buffer)
        if not checkpoint.unchanged(self._folder, self._content):
            raise CheckpointRefusedError(self._folder, "files", "they changed while they were read into memory")
        return layout

    def _copy_one(self, file: int, into: int, tensor: PlacedTensor, buffer: memoryview) -> None:
        done = 0
        while done < tensor.nbytes:
            if self._given_up.is_set():
                raise NotStagedError(self._folder, "another checkpoint is wanted")
            piece = buffer[: min(_PIECE, tensor.nbytes - done)]
            count = os.preadv(file, [piece], tensor.start + done)
            if count == 0:
                raise CheckpointRefusedError(self._folder, tensor.file, "is shorter than its header says")
            written = 0
            while written < count:
                written += os.pwrite(into, piece[written:count], tensor.offset + done + written)
            done += count


def shared(folder: Path, content: Content) -> SharedWeights:
    """The memory for these files: what another replica of this process is having read, or new."""
    key = folder, content.sha256
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = SharedWeights(folder=folder, content=content)
    return found


def _forget(gone: SharedWeights) -> None:
    for key in [key for key, one in _in_use.items() if one is gone]:
        del _in_use[key]
