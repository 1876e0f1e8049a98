"""The stub's part of a round: it takes every tensor that comes by gloo, and keeps none."""

from __future__ import annotations

from rollstream.schemas.wire.rounds import Sent
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.links import Link, meet

from ..engine import Incoming
from ..errors import RoundMissedError


def linked(incoming: Incoming) -> Link:
    """Blocks until all parties have come. Raises `RoundMissedError`."""
    try:
        return meet(
            incoming.backend,
            incoming.meeting,
            rank=incoming.first_rank,
            world_size=incoming.world_size,
            timeout_s=incoming.timeout_s,
            device=None,
        )
    except (LinkError, ModuleNotFoundError) as error:  # the second: a stub runs without torch too
        raise RoundMissedError(str(error)) from error


def take(link: Link, sent: Sent) -> None:
    """Blocks until all tensors have come. Raises `RoundMissedError`; the link is closed in every case."""
    import torch  # noqa: PLC0415 - only where tensors are

    try:
        for dtype, shape in zip(sent.dtypes, sent.shapes, strict=True):
            link.broadcast(torch.empty(shape, dtype=getattr(torch, dtype)))
    except LinkError as error:
        raise RoundMissedError(str(error)) from error
    finally:
        link.close()
