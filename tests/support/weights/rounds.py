"""Rounds without tensors for tests of how parties agree: what is sent is one number, and links can be held up."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.rounds.lead import RoundLeader
from rollstream.producer.rounds.round_options import RoundOptions
from rollstream.schemas import Keys, Tensor
from rollstream.schemas.wire.rounds import Sent
from rollstream.transport.rounds.errors import LinkError

SHA256 = "5a" * 32
ONE_NUMBER = Sent(
    names=("w",),
    dtypes=("float32",),
    dimensions=Tensor.of(np.array([1], np.int32)),
    sizes=Tensor.of(np.array([1], np.int64)),
)


class HeldLink:
    """A link whose broadcast returns when the test says so, or is aborted."""

    def __init__(self) -> None:
        self.aborted = False
        self.broadcasting, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:  # noqa: ARG002 - as a link's
        self.broadcasting.set()
        self.go_on.wait(20)
        if self.aborted:
            raise LinkError("the round was broken off")

    def abort(self) -> None:
        self.aborted = True
        self.go_on.set()

    def close(self) -> None:
        self.closed.set()


class HeldMeeting:
    """Where nobody has to come."""

    place = b"127.0.0.1:9"

    def __init__(self, *, held: bool = False) -> None:
        self.made = HeldLink()
        self.given_up = False
        if not held:
            self.made.go_on.set()

    def link(self, world_size: int) -> HeldLink:
        self.world_size = world_size
        return self.made

    def give_up(self) -> None:
        self.given_up = True


class OneNumber:
    sent = ONE_NUMBER
    device: object = None

    def send(self, link: Any) -> None:
        link.broadcast(None)


def leader_of(
    connection: Connection, keys: Keys, meeting: HeldMeeting, *, version: int = 1, join_s: float = 5.0
) -> RoundLeader:
    return RoundLeader(
        connection=connection,
        keys=keys,
        version=version,
        sha256=SHA256,
        load=OneNumber(),
        meeting=lambda: meeting,
        options=RoundOptions(backend="gloo", join_s=join_s, timeout_s=20.0),
    )
