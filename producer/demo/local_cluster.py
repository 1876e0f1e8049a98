"""A real Redis Cluster of three primaries on loopback, with a replica each if wanted.

Each node can be killed and started again with its data.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from rollstream.schemas import RollstreamError

from .embedded_redis import EmbeddedRedis

NODES = 3
BUS = 10_000
"""Redis adds this to a node's port to get the port of the bus between nodes."""
_PORTS = range(20_000, 22_700)
"""Their bus ports lie below those of outgoing connections too."""
_FORMED_S = 60


class ClusterNotWholeError(RollstreamError):
    """Raised when the nodes do not find each other in time; the text is each node's CLUSTER INFO."""


class ClusterNode(EmbeddedRedis):
    """One node. While a primary without a replica is down, only its own keys fail."""

    def _command(self) -> list[str | Path]:
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": "0",  # Redis 7 would wait 5 s for more replicas
        }
        return [*super()._command(), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def freeze(self) -> None:
        """Stop the process until `thaw`: like an unreachable node it answers nothing and closes nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def role(self) -> str:
        """`master` or `slave`, as Redis says it."""
        found: str = self.ask("INFO", "replication")["role"]
        return found

    def ask(self, *command: str | int) -> Any:
        """Send a command to this node alone and return its answer."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)


class LocalCluster:
    """A cluster that runs inside the `with` block. `appendonly` as for `EmbeddedRedis`.

    `replicated`: each primary has a replica, which takes its place a few seconds after it was killed. `nodes` are those
    that begin as primaries, `replicas` the others in the same order.
    """

    def __init__(self, *, appendonly: bool = True, replicated: bool = False) -> None:
        self.nodes = [ClusterNode(appendonly=appendonly) for _ in range(NODES)]
        self.replicas = [ClusterNode(appendonly=appendonly) for _ in self.nodes] if replicated else []
        for node, port in zip(self.everyone, _free_ports(len(self.everyone)), strict=True):
            node.port = port
        self._running = ExitStack()

    @property
    def everyone(self) -> list[ClusterNode]:
        """All nodes, whether primaries or replicas."""
        return [*self.nodes, *self.replicas]

    @property
    def url(self) -> str:
        """The URL for `--redis` and the clients."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_of(self, key: str) -> ClusterNode:
        """The node that has the key from the beginning on."""
        return self.nodes[key_slot(key.encode()) * NODES // REDIS_CLUSTER_HASH_SLOTS]

    def __enter__(self) -> Self:
        with ExitStack() as running:
            for number, node in enumerate(self.nodes):
                running.enter_context(node)
                node.ask("CLUSTER", "ADDSLOTS", *_slots(number))
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in self.replicas:
                running.enter_context(node)
            self.wait_until_whole()
            self._running = running.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._running.close()

    def wait_until_whole(self) -> None:
        """Return once all nodes agree who serves each slot, and each replica has its primary's data.

        Raises `ClusterNotWholeError`.
        """
        deadline = time.monotonic() + _FORMED_S
        while not (self._agree() and self._is_replicated()):
            if time.monotonic() > deadline:
                raise ClusterNotWholeError(str([node.ask("CLUSTER", "INFO") for node in self.everyone]))
            self._introduce()
            time.sleep(0.02)

    def _agree(self) -> bool:
        return all(map(_is_whole, self.everyone)) and len({_serving(node) for node in self.everyone}) == 1

    def _introduce(self) -> None:
        """Redis forgets an introduction that is not answered within the node timeout, so it is repeated."""
        first, *others = self.everyone
        for node in others:
            if _number_known_to(node) < len(self.everyone):
                node.ask("CLUSTER", "MEET", "127.0.0.1", first.port)

    def _is_replicated(self) -> bool:
        """Whether each replica follows a primary and has its data; one that follows none yet is told to."""
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            if replica.role == node.role == "master" and not _has_slots(replica):
                with contextlib.suppress(redis.ResponseError):  # it does not know that primary yet
                    replica.ask("CLUSTER", "REPLICATE", node.ask("CLUSTER", "MYID"))
        links = [node.ask("INFO", "replication").get("master_link_status", "up") for node in self.everyone]
        roles = [node.role for node in self.everyone]
        return roles.count("slave") == len(self.replicas) and set(links) == {"up"}


def _slots(number: int) -> range:
    return range(*(-(-REDIS_CLUSTER_HASH_SLOTS * each // NODES) for each in (number, number + 1)))


def _is_whole(node: ClusterNode) -> bool:
    told = str(node.ask("CLUSTER", "INFO"))
    return "cluster_state:ok" in told and f"cluster_slots_ok:{REDIS_CLUSTER_HASH_SLOTS}" in told


def _serving(node: ClusterNode) -> frozenset[tuple[int, int, int]]:
    """First slot, last slot and the port of the primary that serves them, as this node sees it."""
    return frozenset((first, last, port) for first, last, (_, port, *_), *_ in node.ask("CLUSTER", "SLOTS"))


def _number_known_to(node: ClusterNode) -> int:
    """Nodes, itself among them."""
    return len(bytes(node.ask("CLUSTER", "NODES")).splitlines())


def _has_slots(node: ClusterNode) -> bool:
    """Whether it serves slots as a primary, by its own account."""
    return any(port == node.port for _, _, port in _serving(node))


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and whose bus ports are free too."""
    found: list[int] = []
    start = time.monotonic_ns() % len(_PORTS)
    for step in range(len(_PORTS)):
        port = _PORTS[(start + step) % len(_PORTS)]
        if _is_free(port) and _is_free(port + BUS):
            found.append(port)
        if len(found) == count:
            break
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
