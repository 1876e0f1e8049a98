"""How a trainer sends weights in a round."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, get_args

from rollstream.schemas.wire.rounds import Backend
from rollstream.transport.redis.access import RedisAccess

from ..errors import ArgumentError

_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOptions:
    """For `publish_policy(..., transport=RoundOptions(backend="nccl"))`; a backend alone is `transport="nccl"`."""

    backend: Backend
    """"nccl" from GPU to GPU, "gloo" from CPU to CPU, "ipc" on one machine.

    Workers are started with `--weight-transfer` and the same."""
    join_s: float = 10.0
    """How long a worker is waited for that takes part in rounds and has not joined."""
    timeout_s: float = 120.0
    """How long linking and sending may take together."""
    host: str | None = None
    """This machine's name or address for workers; None: that of its way to Redis."""

    @classmethod
    def of(cls, given: Any) -> RoundOptions | None:
        """The options, checked; None for versions that are not sent. Raises `ArgumentError`."""
        if given is None or given == "store":
            return None
        options = cls(backend=given) if isinstance(given, str) else given  # type: ignore[arg-type] # checked next
        if not isinstance(options, RoundOptions) or options.backend not in get_args(Backend):
            raise ArgumentError("transport", given, 'give "store", "nccl", "gloo", "ipc" or RoundOptions(backend=...)')
        for name in ("join_s", "timeout_s"):
            value = getattr(options, name)
            if not isinstance(value, int | float) or not 0 < value <= 3600:
                raise ArgumentError(name, value, "give seconds, at most 3600")
        return options

    def host_towards(self, redis: RedisAccess) -> str:
        """Where other machines find this one: on the way to Redis, or to the first node that the URL names."""
        nodes = redis.place().nodes
        return self.host or (address_towards(nodes[0][0]) if nodes else _LOCAL)


def address_towards(host: str) -> str:
    """This machine's address on the way to `host`, of IPv4 or IPv6; nothing is sent there."""
    try:
        ways = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except OSError:
        return _LOCAL
    for family, kind, protocol, _, address in ways:
        with suppress(OSError), closing(socket.socket(family, kind, protocol)) as way:
            way.connect(address)
            return str(way.getsockname()[0])
    return _LOCAL
