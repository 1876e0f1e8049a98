"""How the processes of a round find each other: all gather in a store of the trainer's, and are linked then."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from typing import Any

from rollstream.schemas.printable import first_line

from . import nccl_library
from .errors import LinkError
from .links import GlooLink, Link, NcclLink, SharedLink

_ADDRESS = re.compile(r"([A-Za-z0-9:][A-Za-z0-9.:-]{0,252}):([0-9]{1,5})")
_NCCL_ID = "nccl"
"""The key under which the trainer's id of NCCL is."""


def meet(
    backend: str,
    meeting: bytes,
    *,
    rank: int,
    world_size: int,
    timeout_s: float,
    device: Any,
    given_up: threading.Event,
) -> Link:
    """Link this process, which is not the first, with the others. Blocks, until `given_up` is set at most.

    Raises `LinkError`. A place where nobody answers is tried until the time limit, and NCCL waits for ever for a party
    that dies just when all have come: call it in a thread that nobody waits for.
    """
    host, port = _address(meeting)
    store = _store(host, port, timeout_s, first=False)
    return _linked(
        backend, store, rank=rank, world_size=world_size, timeout_s=timeout_s, device=device, given_up=given_up
    )


class Meeting:
    """Where the others find the trainer, which is rank 0: known before they come."""

    def __init__(self, *, backend: str, host: str, timeout_s: float, device: Any) -> None:
        """Raises `LinkError`."""
        self._backend, self._timeout_s, self._device = backend, timeout_s, device
        self._given_up = threading.Event()
        unique_id = nccl_library.new_id() if backend == "nccl" else b""
        self._store = _store(host, 0, timeout_s, first=True)
        self._store.set(_NCCL_ID, unique_id)
        self.place = f"{host}:{self._store.port}".encode()
        """What goes into the plan."""

    def give_up(self) -> None:
        """End the wait without a link, even if all come later. From any thread; safe to call twice."""
        self._given_up.set()

    def link(self, world_size: int) -> Link:
        """Blocks until all have come, or it is given up. Raises `LinkError`."""
        return _linked(
            self._backend,
            self._store,
            rank=0,
            world_size=world_size,
            timeout_s=self._timeout_s,
            device=self._device,
            given_up=self._given_up,
        )


def _linked(
    backend: str,
    store: Any,
    *,
    rank: int,
    world_size: int,
    timeout_s: float,
    device: Any,
    given_up: threading.Event,
) -> Link:
    """All gather first: a party that dies before is waited for only by what can be broken off."""
    from .gathering_store import GatheringStore  # noqa: PLC0415 - imports torch

    gathered = GatheringStore(store, timeout_s=timeout_s, given_up=given_up)
    try:
        gathered.gather(rank, world_size)
        unique_id = gathered.get(_NCCL_ID)
    except RuntimeError as error:
        raise LinkError(first_line(error)) from None
    if backend == "nccl":
        return NcclLink(unique_id=unique_id, rank=rank, world_size=world_size, device=device, given_up=given_up)
    linked = GlooLink(store=gathered, rank=rank, world_size=world_size, timeout_s=timeout_s, given_up=given_up)
    return SharedLink(control=linked, rank=rank, device=device) if backend == "ipc" else linked


def _store(host: str, port: int, timeout_s: float, *, first: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # noqa: PLC0415 - only where tensors are

    try:
        return TCPStore(host, port, is_master=first, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, OSError) as error:  # torch has errors of its own below RuntimeError
        raise LinkError(f"{host}:{port}: {first_line(error)}") from None


def _address(meeting: bytes) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(meeting.decode("latin-1"))
    if found is None or not 0 < int(found[2]) < 65536:
        raise LinkError("where to meet is no host:port")
    return found[1], int(found[2])
