"""A trainer's part of a round between CPUs, without the queue: it sends tensors to whatever links."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import torch

from rollstream.producer.rounds.outgoing import Outgoing
from rollstream.schemas.wire.rounds import Backend
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.meeting import Meeting
from rollstream.worker.engine import Incoming

TIMEOUT_S = 20.0


class GlooTrainer:
    """Sends a model's tensors once all `ranks` have come; after `dies_after` of them it is gone.

    It ends only when `all_linked` is set: a trainer's own link is whole before that of a rank may be.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        dies_after: int | None = None,
        ranks: int = 1,
        backend: Backend = "gloo",
    ) -> None:
        self._dies_after, self._ranks, self._backend = dies_after, ranks, backend
        self.outgoing = Outgoing(tensors=tensors, backend=backend)
        self._meeting = Meeting(backend=backend, host="127.0.0.1", timeout_s=TIMEOUT_S, device=None)
        self.linked = threading.Event()
        self.all_linked = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def incoming(self, timeout_s: float = TIMEOUT_S) -> Incoming:
        return Incoming(
            backend=self._backend,
            sent=self.outgoing.sent,
            meeting=self._meeting.place,
            first_rank=1,
            world_size=1 + self._ranks,
            timeout_s=timeout_s,
        )

    def _send(self) -> None:
        with suppress(LinkError):
            link = self._meeting.link(1 + self._ranks)
            self.linked.set()
            with suppress(LinkError):
                self.outgoing.send(
                    link if self._dies_after is None else _Mortal(link, self._dies_after, self.all_linked)
                )
            link.close()


class _Mortal:
    def __init__(self, link: Link, left: int, all_linked: threading.Event) -> None:
        self._link, self._left, self._all_linked = link, left, all_linked
        self.aborted = False

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:
        if not self._left:
            assert self._all_linked.wait(TIMEOUT_S)
            self._link.close()
        self._left -= 1
        self._link.broadcast(tensor, src, stream)

    def abort(self) -> None: ...

    def close(self) -> None: ...
