"""The stub's part of a round: it takes every tensor that comes by gloo, and keeps none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from rollstream.schemas.wire.rounds import Sent
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.in_thread import in_thread
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.meeting import meet

from ..engine import Incoming
from ..errors import RoundMissedError

T = TypeVar("T")


async def linked(incoming: Incoming, over: asyncio.Event) -> Link:
    """Raises `RoundMissedError`, also once the round is over."""
    given_up = threading.Event()
    return await _until_over(partial(_link, incoming, given_up), over, given_up.set)


async def taken(link: Link, sent: Sent, over: asyncio.Event) -> None:
    """Returns once all tensors have come. Raises `RoundMissedError`, also once the round is over."""
    await _until_over(partial(_take, link, sent), over, link.abort)


async def _until_over(call: Callable[[], T], over: asyncio.Event, give_up: Callable[[], None]) -> T:
    """Nobody waits for a thread that does not end although its call was given up."""
    calling, ending = in_thread(call), asyncio.create_task(over.wait())
    either: tuple[asyncio.Future[Any], ...] = calling, ending
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if calling.done():
            return calling.result()
        raise RoundMissedError("not all parties came, or sent all, before it was over")
    finally:
        ending.cancel()
        if not calling.done():
            give_up()


def _link(incoming: Incoming, given_up: threading.Event) -> Link:
    """Blocks until all parties have come."""
    try:
        link = meet(
            incoming.backend,
            incoming.meeting,
            rank=incoming.first_rank,
            world_size=incoming.world_size,
            timeout_s=incoming.timeout_s,
            device=None,
            given_up=given_up,
        )
    except (LinkError, ModuleNotFoundError) as error:  # the second: a stub runs without torch too
        raise RoundMissedError(str(error)) from error
    if given_up.is_set():
        link.close()
    return link


def _take(link: Link, sent: Sent) -> None:
    """Blocks until all tensors have come; the link is closed in every case."""
    import torch  # noqa: PLC0415 - only where tensors are

    try:
        for dtype, shape in zip(sent.dtypes, sent.shapes, strict=True):
            link.broadcast(torch.empty(shape, dtype=getattr(torch, dtype)))
    except LinkError as error:
        raise RoundMissedError(str(error)) from error
    finally:
        link.close()
