"""A model's tensors on their way into a round. Needs torch, and no vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rollstream.schemas import Tensor
from rollstream.schemas.wire.rounds import ITEM_BYTES, MAX_TENSORS, Backend, Sent
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.packing import CHUNKS_AT_ONCE, chunks

from .errors import RoundRefusedError


class Outgoing:
    """Named tensors, in the order in which they are sent. They must not change until the round is over."""

    def __init__(self, *, tensors: Mapping[str, Any], backend: Backend, dtype: str | None = None) -> None:
        """`dtype`: cast to that while they are sent. Raises `RoundRefusedError` for what cannot be sent."""
        if problem := _problem(tensors):
            raise RoundRefusedError(problem)
        self._tensors = [tensor.detach() for tensor in tensors.values()]
        self._backend = backend
        self._dtypes: tuple[Any, ...] = tuple(dtype or _dtype(tensor) for tensor in self._tensors)
        self.sent = Sent(
            names=tuple(tensors),
            dtypes=self._dtypes,
            dimensions=Tensor.of(np.array([tensor.dim() for tensor in self._tensors], np.int32)),
            sizes=Tensor.of(np.array([size for tensor in self._tensors for size in tensor.shape], np.int64)),
        )
        self.device = _device(self._tensors, backend)
        """The GPU from which they are sent; None: the CPU."""

    def send(self, link: Link) -> None:
        """Blocks until all others have them. Raises `LinkError`."""
        if self._backend == "nccl":
            _send_packed(self._cast(self.device), self.device, link)
        else:
            for tensor in self._cast("cpu" if self.device is None else self.device):
                link.broadcast(tensor.contiguous())
        if link.aborted:
            raise LinkError("the round was broken off")

    def _cast(self, device: Any) -> Iterator[Any]:
        import torch  # noqa: PLC0415 - the trainer has it

        for tensor, dtype in zip(self._tensors, self._dtypes, strict=True):
            # What is on its way to the CPU must have come before it is sent.
            yield tensor.to(device, getattr(torch, dtype), non_blocking=self._backend == "nccl")


def _send_packed(tensors: Iterator[Any], device: Any, link: Link) -> None:
    import torch  # noqa: PLC0415 - the trainer has it

    torch.cuda.synchronize(device)  # the last step of an optimiser may still be writing
    with torch.cuda.device(device):
        streams = [torch.cuda.Stream(device) for _ in range(CHUNKS_AT_ONCE)]  # type: ignore[no-untyped-call] # torch
        held: list[Any] = [None] * CHUNKS_AT_ONCE
        packed = chunks(tensors)
        for number in _turns(CHUNKS_AT_ONCE):
            streams[number].synchronize()
            held[number] = None
            with torch.cuda.stream(streams[number]):
                held[number] = next(packed, None)
                if held[number] is None:
                    break
                link.broadcast(held[number], stream=streams[number])
        for stream in streams:
            stream.synchronize()


def _turns(count: int) -> Iterator[int]:
    while True:
        yield from range(count)


def _problem(tensors: Mapping[str, Any]) -> str:
    if not 1 <= len(tensors) <= MAX_TENSORS:
        return f"{len(tensors)} tensors: a round takes 1 to {MAX_TENSORS}"
    found = ((name, _tensor_problem(name, tensor)) for name, tensor in tensors.items())
    return next((f"tensor {name[:100]} {problem}" for name, problem in found if problem), "")


def _tensor_problem(name: str, tensor: Any) -> str:
    if not 1 <= len(name) <= 512:
        return f"has a name of {len(name)} characters: at most 512"
    if getattr(tensor, "full_tensor", None) is not None:
        return "is spread over several processes: gather it first"
    if tensor.is_meta:
        return "has no data (meta): gather it first"
    if _dtype(tensor) not in ITEM_BYTES:
        return f"is {_dtype(tensor)}: a round takes {', '.join(ITEM_BYTES)}"
    return "" if tensor.numel() else "is empty"


def _dtype(tensor: Any) -> Any:
    return str(tensor.dtype).removeprefix("torch.")


def _device(tensors: list[Any], backend: Backend) -> Any:
    import torch  # noqa: PLC0415 - the trainer has it

    there = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    if backend != "nccl":
        return there if backend == "ipc" else None
    if not torch.cuda.is_available():
        raise RoundRefusedError("NCCL sends from a GPU, and torch sees none here")
    return there or torch.device("cuda", torch.cuda.current_device())
