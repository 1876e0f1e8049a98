"""Memory that processes of one machine share: of a GPU by CUDA's handles, else of the CPU. It dies with its owner.

A handle is bytes that another process sends: it is read as plain numbers, never as an object, and what it opens must be
a buffer that this module made.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import msgpack

from rollstream.schemas.printable import first_line

from .errors import LinkError

BUFFER_BYTES = 64 * 2**20
MAX_HANDLE_BYTES = 4096

_NAME = "rollstream-round"
_LINK = f"/memfd:{_NAME} (deleted)"
_CUDA = "storage_device", "storage_handle", "storage_size_bytes", "storage_offset_bytes", "ref_counter_handle", \
    "ref_counter_offset", "event_handle", "event_sync_required"  # fmt: skip
"""What torch calls the parts of a CUDA handle."""


class SharedBuffer:
    """uint8 (`BUFFER_BYTES`,), in `bytes`. The owner keeps it until all others have ended."""

    def __init__(self, *, owned: Any, handle: bytes, fd: int | None = None) -> None:
        self.bytes = owned
        self.handle = handle
        """For `open_buffer` in other processes of this machine."""
        self._fd = fd

    def close(self) -> None:
        """Safe to call twice. The memory is freed once nobody uses it."""
        self.bytes = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def make_buffer(device: Any) -> SharedBuffer:
    """A buffer on `device`, a GPU; None: in the memory of the CPU. Raises `LinkError`."""
    return _on_cpu() if device is None else _on_gpu(device)


def open_buffer(handle: bytes) -> SharedBuffer:
    """The buffer of another process. Raises `LinkError` for one of another machine, and for what is none."""
    try:
        told = msgpack.unpackb(handle[:MAX_HANDLE_BYTES], use_list=False)
        place, rest = told["on"], told["parts"]
    except (ValueError, TypeError, KeyError) as error:
        raise LinkError("the handle of the trainer's buffer is unreadable") from error
    return _opened_gpu(rest) if place == "gpu" else _opened_cpu(rest)


def _on_cpu() -> SharedBuffer:
    try:
        fd = os.memfd_create(_NAME)
        os.ftruncate(fd, BUFFER_BYTES)
        owned = _mapped(fd)
    except OSError as error:
        raise LinkError(f"no memory to share: {error.strerror}") from error
    return SharedBuffer(owned=owned, handle=_packed("cpu", (os.getpid(), fd)), fd=fd)


def _opened_cpu(parts: Any) -> SharedBuffer:
    if not (isinstance(parts, tuple) and len(parts) == 2 and all(type(part) is int and part > 0 for part in parts)):
        raise LinkError("the handle of the trainer's buffer is unreadable")
    path = Path("/proc", str(parts[0]), "fd", str(parts[1]))
    try:
        if str(path.readlink()) != _LINK or path.stat().st_size != BUFFER_BYTES:
            raise LinkError("the trainer's buffer is none of a round")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        problem = "the trainer's memory is not to be seen from here: both must run on one machine, in one container"
        raise LinkError(f"{problem} ({error.strerror})") from error
    try:
        return SharedBuffer(owned=_mapped(fd), handle=b"")
    finally:
        os.close(fd)


def _mapped(fd: int) -> Any:
    import torch  # noqa: PLC0415 - only where tensors are

    return torch.frombuffer(mmap.mmap(fd, BUFFER_BYTES), dtype=torch.uint8)


def _on_gpu(device: Any) -> SharedBuffer:
    import torch  # noqa: PLC0415 - see above

    owned = torch.empty(BUFFER_BYTES, dtype=torch.uint8, device=device)
    try:
        parts = owned.untyped_storage()._share_cuda_()  # type: ignore[no-untyped-call] # torch types only a part
    except RuntimeError as error:
        raise LinkError(f"CUDA shares no memory: {first_line(error)}") from error
    uuid = str(torch.cuda.get_device_properties(owned.device).uuid)
    return SharedBuffer(owned=owned, handle=_packed("gpu", (uuid, *parts[1:])))


def _opened_gpu(parts: Any) -> SharedBuffer:
    import torch  # noqa: PLC0415 - see above
    from torch.multiprocessing.reductions import rebuild_cuda_tensor  # noqa: PLC0415 - see above

    if not (isinstance(parts, tuple) and len(parts) == len(_CUDA) and _are_plain(parts)):
        raise LinkError("the handle of the trainer's buffer is unreadable")
    numbers = range(torch.cuda.device_count())
    there = [number for number in numbers if str(torch.cuda.get_device_properties(number).uuid) == parts[0]]
    if not there:
        raise LinkError("the trainer's GPU is not to be seen from here: give both processes the same GPUs")
    try:
        owned = rebuild_cuda_tensor(  # type: ignore[no-untyped-call] # torch types only a part of itself
            torch.Tensor, (BUFFER_BYTES,), (1,), 0, torch.UntypedStorage, torch.uint8,
            requires_grad=False, **dict(zip(_CUDA, (there[0], *parts[1:]), strict=True)),
        )  # fmt: skip
    except (RuntimeError, TypeError) as error:
        raise LinkError(f"the trainer's GPU memory cannot be opened: {first_line(error)}") from error
    return SharedBuffer(owned=owned, handle=b"")


def _are_plain(parts: tuple[Any, ...]) -> bool:
    uuid, handle, size, offset, counter, counter_offset, event, sync = parts
    texts = isinstance(uuid, str) and all(isinstance(part, bytes) for part in (handle, counter, event))
    numbers = all(type(part) is int and part >= 0 for part in (size, offset, counter_offset))
    return texts and numbers and isinstance(sync, bool) and size == BUFFER_BYTES  # it begins at offset of a larger one


def _packed(place: str, parts: tuple[Any, ...]) -> bytes:
    handle: bytes = msgpack.packb({"on": place, "parts": parts})
    return handle
