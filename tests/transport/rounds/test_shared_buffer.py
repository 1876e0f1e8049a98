"""Memory that processes share: freed with its owner, and a handle opens nothing else."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import msgpack
import pytest
import torch

from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.shared_buffer import BUFFER_BYTES, make_buffer, open_buffer


def test_both_see_the_same_bytes() -> None:
    owner = make_buffer(None)
    other = open_buffer(owner.handle)

    owner.bytes[:3] = torch.tensor([1, 2, 3], dtype=torch.uint8)

    assert other.bytes[:4].tolist() == [1, 2, 3, 0]


def test_it_is_gone_with_its_owner() -> None:
    owner = make_buffer(None)
    owner.close()
    owner.close()

    with pytest.raises(LinkError, match="one machine"):
        open_buffer(owner.handle)


def test_a_handle_opens_no_other_file_of_a_process() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.ftruncate(file.fileno(), BUFFER_BYTES)
        handle = msgpack.packb({"on": "cpu", "parts": (os.getpid(), file.fileno())})

        with pytest.raises(LinkError, match="none of a round"):
            open_buffer(handle)


@pytest.mark.parametrize(
    "told",
    [
        None,
        7,
        {},
        {"on": "cpu"},
        {"on": "cpu", "parts": None},
        {"on": "cpu", "parts": (1,)},
        {"on": "cpu", "parts": ("../../etc", 1)},
        {"on": "cpu", "parts": (True, 3)},
        {"on": "cpu", "parts": (-1, 3)},
        {"on": "gpu", "parts": ()},
        {"on": "gpu", "parts": ("uuid", b"h", 1, 0, b"c", 0, b"e", True)},
        {"on": "gpu", "parts": ("uuid", [b"h"], BUFFER_BYTES, 0, b"c", 0, b"e", True)},
        {"on": "gpu", "parts": ("uuid", b"h", BUFFER_BYTES, -1, b"c", 0, b"e", True)},
    ],
)
def test_what_is_no_handle_is_refused_before_anything_is_opened(told: Any) -> None:
    with pytest.raises(LinkError, match="unreadable"):
        open_buffer(msgpack.packb(told))


def test_a_buffer_that_lies_in_a_larger_allocation_of_a_gpu_has_a_handle_that_is_read() -> None:
    """Torch gives the buffer's own size, and where it begins: a trainer's second round may begin behind the first's."""
    told = {"on": "gpu", "parts": ("uuid", b"h", BUFFER_BYTES, BUFFER_BYTES, b"c", 0, b"e", True)}

    with pytest.raises(LinkError, match="not to be seen from here"):
        open_buffer(msgpack.packb(told))


@pytest.mark.parametrize("handle", [b"", b"\xc1", b"\x92\x01", b"\xdd\xff\xff\xff\xff"])
def test_bytes_that_are_no_message_are_refused(handle: bytes) -> None:
    with pytest.raises(LinkError, match="unreadable"):
        open_buffer(handle)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("before", [0, 1], ids=["alone", "in a larger allocation"])
def test_both_see_the_same_memory_of_a_gpu(before: int) -> None:
    """CUDA opens no handle in the process that made it, so another does."""
    del_later = torch.empty(4 * BUFFER_BYTES, dtype=torch.uint8, device="cuda") if before else None
    del del_later  # torch keeps it, and cuts the buffers from it
    others = [make_buffer(torch.device("cuda", 0)) for _ in range(before)]
    owner = make_buffer(torch.device("cuda", 0))
    owner.bytes[:3] = torch.tensor([1, 2, 3], dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    context = torch.multiprocessing.get_context("spawn")
    seen = context.SimpleQueue()

    other = context.Process(target=_read, args=(owner.handle, seen))
    other.start()
    other.join(60)

    assert other.exitcode == 0
    assert seen.get() == [1, 2, 3]
    assert len(others) == before


def _read(handle: bytes, seen: Any) -> None:
    seen.put(open_buffer(handle).bytes[:3].tolist())
