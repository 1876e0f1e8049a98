"""The few functions of NCCL that a broadcast needs, from the library that torch has loaded. Needs no torch itself.

torch's own groups of NCCL exchange pickled objects, and cannot be ended from another thread while one of their kernels
waits for a process that has died. `ncclCommAbort` can.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from .errors import LinkError

ID_BYTES = 128
_NAME = "libnccl.so.2"
_UINT8 = 1
_FLOAT32 = 7
_SUM = 0


class _UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * ID_BYTES)]


@cache
def library() -> Any:
    """The loaded library. Raises `LinkError` where there is none."""
    named = os.environ.get("VLLM_NCCL_SO_PATH") or _NAME
    try:
        found = ctypes.CDLL(named)
    except OSError as error:
        raise LinkError(f"there is no NCCL here: {error}: install torch for CUDA") from None
    found.ncclGetErrorString.restype = ctypes.c_char_p
    found.ncclCommInitRank.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, _UniqueId, ctypes.c_int]
    found.ncclBroadcast.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    found.ncclAllReduce.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    found.ncclCommAbort.argtypes = [ctypes.c_void_p]
    return found


def new_id() -> bytes:
    """An id under which processes find each other; the process that makes it must be rank 0."""
    made = _UniqueId()
    _check(library().ncclGetUniqueId(ctypes.byref(made)))
    return bytes(made)


def join(unique_id: bytes, rank: int, world_size: int) -> int:
    """A communicator on the thread's current device, once all others have come. Blocks, without Python's lock."""
    if len(unique_id) != ID_BYTES:
        raise LinkError(f"an id of NCCL has {ID_BYTES} bytes, not {len(unique_id)}")
    made = ctypes.c_void_p()
    _check(library().ncclCommInitRank(ctypes.byref(made), world_size, _UniqueId.from_buffer_copy(unique_id), rank))
    return int(made.value or 0)


def broadcast(communicator: int, address: int, num_bytes: int, stream: int) -> None:
    """From rank 0 into the same memory of the others, in the order of `stream`."""
    _check(library().ncclBroadcast(address, address, num_bytes, _UINT8, 0, communicator, stream))


def add_up(communicator: int, address: int, stream: int) -> None:
    """One float32 from each."""
    _check(library().ncclAllReduce(address, address, 1, _FLOAT32, _SUM, communicator, stream))


def abort(communicator: int) -> None:
    """End the communicator and every kernel of it that waits, from any thread."""
    library().ncclCommAbort(communicator)


def _check(code: int) -> None:
    if code:
        raise LinkError(f"NCCL: {library().ncclGetErrorString(code).decode(errors='replace')}")
