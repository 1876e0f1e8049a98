"""The stub's part of a round: it takes every tensor that comes by gloo, and keeps none."""

from __future__ import annotations

import asyncio

from rollstream.schemas.wire.rounds import Sent
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.links import Link, meet

from ..engine import Incoming
from ..errors import RoundMissedError


async def linked(incoming: Incoming, over: asyncio.Event) -> Link:
    """Raises `RoundMissedError`, also once the round is over. A thread that still waits then ends by its time limit."""
    linking, ending = asyncio.create_task(asyncio.to_thread(_linked, incoming)), asyncio.create_task(over.wait())
    try:
        await asyncio.wait([linking, ending], return_when=asyncio.FIRST_COMPLETED)
        if linking.done():
            return linking.result()
        raise RoundMissedError("not all parties came before it was over")
    finally:
        linking.cancel()
        ending.cancel()


def _linked(incoming: Incoming) -> Link:
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
