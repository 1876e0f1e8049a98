"""Runs inside vLLM's workers: maps the shared memory of a checkpoint, and pins it for the copy to a GPU.

From memory that is not pinned a GPU copies 5 to 7 GB/s, from pinned memory 50 (one H200). Pinning 6 GB takes a quarter
of a second, in pieces, and during each the driver launches nothing: so there are pauses between them.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

_REST = 10
"""A pause is so many times as long as the pinning before it."""
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip

Tensor = tuple[str, str, Sequence[int], int]
"""Name, dtype as safetensors names it, shape, and offset in the memory."""

_log = logging.getLogger("vllm.rollstream")


class MappedWeights:
    """A checkpoint in memory, mapped and pinned by a thread of its own.

    The thread alone changes what is mapped and pinned; `problem` and `pinned` tell how far it is. `hold` says what lies
    in the memory.
    """

    def __init__(self, *, path: str, number: int, regions: Sequence[Sequence[int]], device: Any) -> None:
        self.number = number
        self._path = path
        self._regions = regions
        self._device = device
        self._given_up = threading.Event()
        self._memory: mmap.mmap | None = None
        self._held: Sequence[Tensor] = ()
        self._places: list[int] = []
        self._mapped: str | None = None
        threading.Thread(target=self._run, name="rollstream-stage", daemon=True).start()

    @property
    def problem(self) -> str | None:
        """None while it is under way; empty once the tensors are there; else why they are not."""
        if unknown := sorted({dtype for _, dtype, _, _ in self._held} - _DTYPES.keys()):
            return f"tensors of the kind {unknown[0]} cannot be staged"
        return self._mapped

    @property
    def pinned(self) -> bool:
        """Whether all of it is."""
        return self._mapped == "" and len(self._places) == len(self._regions)

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Say which tensors are in the memory now."""
        self._held = tensors

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Name and tensor of each; valid until `close`, or until others are put there."""
        import torch  # noqa: PLC0415 - torch is only there inside vLLM's processes

        if self.problem != "" or self._memory is None:
            raise RuntimeError(f"the staged weights are not there: {self.problem or 'not ready'}")
        for name, dtype, shape, offset in self._held:
            kind, count = getattr(torch, _DTYPES[dtype]), prod(shape)
            if count:
                yield name, torch.frombuffer(self._memory, dtype=kind, count=count, offset=offset).view(tuple(shape))
            else:  # frombuffer takes no empty part
                yield name, torch.empty(tuple(shape), dtype=kind)

    def close(self) -> None:
        """Let go of the memory, soon: its thread does it."""
        self._given_up.set()

    def _run(self) -> None:
        try:
            self._map()
            self._mapped = ""
        except Exception as error:  # noqa: BLE001 - the rim of a thread: the worker asks for the problem
            self._mapped = f"{type(error).__name__}: {error}"
        self._given_up.wait()
        for address in self._places:
            self._paced(_cuda().cudaHostUnregister, address)
        self._memory = None

    def _map(self) -> None:
        opened = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = mmap.mmap(opened, 0)
        finally:
            os.close(opened)
        if self._device.type == "cuda":
            self._pin(self._memory)

    def _pin(self, memory: mmap.mmap) -> None:
        import torch  # noqa: PLC0415 - see above

        torch.cuda.set_device(self._device)  # a new thread begins on the first GPU
        begins = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
        for offset, nbytes in self._regions:
            if self._given_up.is_set():
                return
            if failed := int(self._paced(_cuda().cudaHostRegister, begins + offset, nbytes, 0)):
                _log.warning("staged weights stay unpinned, so that a swap takes longer: CUDA error %d", failed)
                return
            self._places.append(begins + offset)

    def _paced(self, call: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        time.sleep(_REST * (time.perf_counter() - began))
        return result


def _cuda() -> Any:
    import torch  # noqa: PLC0415 - see above

    runtime: Any = torch.cuda
    return runtime.cudart()
