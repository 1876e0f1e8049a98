"""What tests of the cluster client ask of it and of the nodes, and how they move a slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from rollstream.transport.redis import connected
from tests.support.worker_process import wait_for


def impatient(cluster: LocalCluster, **settings: float) -> Redis:
    """A client that tries nothing twice."""
    return connected(cluster.url, retry=Retry(NoBackoff(), 0), protocol=2, decode_responses=False, **settings)


def id_of(node: ClusterNode) -> str:
    found: bytes = node.ask("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else found


def give(key: str, to: ClusterNode, nodes: Sequence[ClusterNode]) -> None:
    """Move the key's slot without its keys: there must be none. Return once all `nodes` agree and nothing undoes it.

    Nodes tell each other of their slots in heartbeats, and the greatest epoch is believed. A heartbeat that was on its
    way when the slot moved takes it back, in some nodes and for good, unless the new owner's epoch is above all others.
    """
    slot, owner = key_slot(key.encode()), id_of(to)

    def agreed() -> bool:
        unaware = [node for node in nodes if not _believes(node, slot, owner)]
        if unaware:
            for node in (to, *nodes):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)
            to.ask("CLUSTER", "BUMPEPOCH")
        return not unaware

    wait_for(agreed, 30, lambda: "\n".join(_told(node) for node in nodes))


def take_away(slots: Iterable[int], nodes: Sequence[ClusterNode]) -> None:
    """Make all nodes believe that no node has the slots. Repeat it, because a heartbeat may give them back."""
    for node in nodes:
        given = {slot for first, last, *_ in node.ask("CLUSTER", "SLOTS") for slot in range(first, last + 1)}
        if taken := sorted(given.intersection(slots)):
            node.ask("CLUSTER", "DELSLOTS", *taken)


def _believes(node: ClusterNode, slot: int, owner: str) -> bool:
    """Whether the slot is the owner's in this node's eyes, and the owner's epoch above that of any other."""
    rows = [line.split() for line in _told(node).splitlines()]
    epochs = {row[0]: int(row[6]) for row in rows}
    slots = next((row[8:] for row in rows if row[0] == owner), [])
    others = [epoch for name, epoch in epochs.items() if name != owner]
    return any(_holds(each, slot) for each in slots) and epochs[owner] > max(others)


def _holds(slots: str, slot: int) -> bool:
    """One column of CLUSTER NODES: `17`, `0-5460`, or `[...` for a slot on its way."""
    first, _, last = slots.partition("-")
    return not slots.startswith("[") and int(first) <= slot <= int(last or first)


def _told(node: ClusterNode) -> str:
    found = node.ask("CLUSTER", "NODES")
    return found.decode() if isinstance(found, bytes) else str(found)
