"""A link between the processes of one round: what the first one gives, all others get.

Both sides use the same classes. A link is made, used by one thread at a time, and ended once; `abort` may come from any
thread and at any moment, since a party that died is seen by another thread than the one that waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

from rollstream.schemas.printable import first_line

from . import nccl_library
from .errors import LinkError
from .shared_buffer import BUFFER_BYTES, MAX_HANDLE_BYTES, SharedBuffer, make_buffer, open_buffer

_ABORT_WAIT_S = 5.0
_CONNECT_S = 20.0
"""How long parties that have all come may take to connect; one that is killed just then would be waited for longer."""
_LOOK = timedelta(seconds=0.05)
_QUERY_S = 0.002


class Link(Protocol):
    """Broadcasts from rank 0. `link` blocks until all have come; everything raises `LinkError` once it is aborted."""

    @property
    def aborted(self) -> bool:
        """Whether this process has given it up."""

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:
        """Send or fill a contiguous tensor; vLLM calls it so. On a GPU it is only queued on the current stream."""

    def abort(self) -> None:
        """Make what waits in this process go on, with an error. Safe to call twice."""

    def close(self) -> None:
        """End it once nothing is under way."""


class NcclLink:
    """GPUs of any machines, one process each."""

    def __init__(self, *, unique_id: bytes, rank: int, world_size: int, device: Any, given_up: threading.Event) -> None:
        """Blocks until all have come, and have exchanged a first number. Raises `LinkError`."""
        import torch  # noqa: PLC0415 - only where tensors are

        self.aborted = False
        self._using = threading.Lock()
        self._device = device
        with torch.cuda.device(device):
            self._communicator = nccl_library.join(unique_id, rank, world_size)
            try:
                self._greet(world_size, given_up)
            except BaseException:
                self.abort()
                raise

    def _greet(self, world_size: int, given_up: threading.Event) -> None:
        """A party that died after it had joined would be waited for by a kernel, which stops all else on the GPU."""
        import torch  # noqa: PLC0415 - see above

        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call] # torch types only a part of itself
        with torch.cuda.stream(stream):
            first = torch.ones(1, device=self._device)
            nccl_library.add_up(self._communicator, first.data_ptr(), stream.cuda_stream)
        while not stream.query():
            if given_up.wait(_QUERY_S):
                raise LinkError("the round was broken off")
        if first.item() != world_size:
            raise LinkError(f"{first.item():g} of {world_size} processes were linked")

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:  # noqa: ARG002 - vLLM gives src
        """See `Link.broadcast`."""
        import torch  # noqa: PLC0415 - see above

        queue = stream or torch.cuda.current_stream(self._device)
        with self._using:
            if self.aborted:
                raise LinkError("the round was broken off")
            num_bytes = tensor.numel() * tensor.element_size()
            nccl_library.broadcast(self._communicator, tensor.data_ptr(), num_bytes, queue.cuda_stream)

    def abort(self) -> None:
        """See `Link.abort`. Kernels that wait end, with whatever was in their memory."""
        free = self._using.acquire(timeout=_ABORT_WAIT_S)
        try:
            if not self.aborted:
                self.aborted = True
                nccl_library.abort(self._communicator)
        finally:
            if free:
                self._using.release()

    def close(self) -> None:
        """In a thread: it waits for the GPU, which has begun to do other things. An abort, since no party waits."""
        threading.Thread(target=self.abort, name="end of a round", daemon=True).start()


class GlooLink:
    """CPUs. A party that dies ends the connection, and thereby the wait of all others."""

    def __init__(self, *, store: Any, rank: int, world_size: int, timeout_s: float, given_up: threading.Event) -> None:
        """`store`: where all have gathered. Blocks until all are connected. Raises `LinkError`."""
        from torch.distributed import ProcessGroupGloo  # noqa: PLC0415 - only where tensors are

        self._store, self._given_up, self._timeout = store, given_up, timedelta(seconds=timeout_s)
        self._left_waiting = False
        """Whether torch still waits for what this link has given up."""
        connect_s = timedelta(seconds=min(timeout_s, _CONNECT_S))
        try:
            self._group: Any = ProcessGroupGloo(store, rank, world_size, connect_s)
        except RuntimeError as error:
            raise LinkError(f"gloo: {first_line(error)}") from None

    @property
    def aborted(self) -> bool:
        """See `Link.aborted`."""
        return self._given_up.is_set()

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:  # noqa: ARG002 - as for NCCL
        """See `Link.broadcast`."""
        from torch.distributed import BroadcastOptions  # noqa: PLC0415 - see above

        options = BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = src, 0, self._timeout
        self._wait(lambda: self._group.broadcast([tensor], options))

    def wait_for_all(self) -> None:
        """Blocks until all have come here. Raises `LinkError`."""
        from torch.distributed import BarrierOptions  # noqa: PLC0415 - see above

        options = BarrierOptions()
        options.timeout = self._timeout
        self._wait(lambda: self._group.barrier(options))

    def _wait(self, begin: Callable[[], Any]) -> None:
        """A party that stands still keeps its connections: what waits for it looks whether it was given up."""
        if self.aborted:
            raise LinkError("the round was broken off")
        try:
            work = begin()
            while not work.is_completed():
                if self.aborted:
                    self._left_waiting = True
                    raise LinkError("the round was broken off")
                with suppress(RuntimeError):  # not yet; an error is raised below
                    work.wait(_LOOK)
            work.wait()
        except (RuntimeError, AttributeError) as error:  # the second: it was closed in between
            raise LinkError(f"gloo: {first_line(error)}") from None

    def abort(self) -> None:
        """See `Link.abort`."""
        self._given_up.set()

    def close(self) -> None:
        """The others see the end of its connections, unless torch still waits for one of them: then later."""
        self._given_up.set()
        held = [self._store, self._group]  # the group goes first: it calls the store
        self._group = None
        if self._left_waiting:
            threading.Thread(target=held.clear, name="end of a round", daemon=True).start()
        else:
            held.clear()


class SharedLink:
    """Processes of one machine: what is sent lies in memory that all of them see, and gloo says when."""

    def __init__(self, *, control: GlooLink, rank: int, device: Any) -> None:
        """Blocks until all have come and have opened the first one's memory. Raises `LinkError`."""
        self._control, self._is_first = control, rank == 0
        self._buffer: SharedBuffer | None = None
        try:
            self._buffer = make_buffer(device) if self._is_first else None
            handle = self._told(b"" if self._buffer is None else self._buffer.handle)
            self._buffer = self._buffer or open_buffer(handle)
            control.wait_for_all()
        except LinkError:  # the others see the end of the connections, and do not wait
            self.close()
            raise

    @property
    def aborted(self) -> bool:
        """See `Link.aborted`."""
        return self._control.aborted

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:  # noqa: ARG002 - as for NCCL
        """See `Link.broadcast`. All have it when this returns."""
        import torch  # noqa: PLC0415 - only where tensors are

        if self.aborted or self._buffer is None:
            raise LinkError("the round was broken off")
        for piece in tensor.view(-1).view(torch.uint8).split(BUFFER_BYTES):
            shared = self._buffer.bytes[: piece.numel()]
            if self._is_first:
                _copy(piece, shared)
            self._control.wait_for_all()
            if not self._is_first:
                _copy(shared, piece)
            self._control.wait_for_all()

    def abort(self) -> None:
        """See `Link.abort`."""
        self._control.abort()

    def close(self) -> None:
        """The others see the end of its connections."""
        self._control.close()
        if self._buffer is not None:
            self._buffer.close()
        self._buffer = None

    def _told(self, handle: bytes) -> bytes:
        """What the first one says to all. Raises `LinkError`."""
        import torch  # noqa: PLC0415 - see above

        padded = handle.ljust(MAX_HANDLE_BYTES, b"\0")
        said = torch.frombuffer(bytearray(len(handle).to_bytes(4, "little") + padded), dtype=torch.uint8)
        self._control.broadcast(said)
        data = bytes(said.tolist())
        return data[4:][: int.from_bytes(data[:4], "little")]


def _copy(source: Any, target: Any) -> None:
    """Copy, and wait for the GPUs: what another process reads must be there."""
    import torch  # noqa: PLC0415 - only where tensors are

    target.copy_(source)
    for tensor in (source, target):
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
