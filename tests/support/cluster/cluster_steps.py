"""What tests of the cluster client ask of it and of the nodes, and how they move a slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

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


def primary_of(key: str, cluster: LocalCluster) -> ClusterNode:
    """The node that serves the key's slot now, as most nodes say that answer."""
    slot = key_slot(key.encode())
    said = Counter(port for node in cluster.everyone if node.pid for port in _serving(node, slot))
    port = said.most_common(1)[0][0]
    return next(node for node in cluster.everyone if node.port == port)


def follower_of(primary: ClusterNode, cluster: LocalCluster) -> ClusterNode:
    """The replica that has the primary's data."""
    followed = id_of(primary)
    found = [node for node in cluster.everyone if node.pid and f" slave {followed} " in _myself(node)]
    return found[0]


def promoted(node: ClusterNode, key: str, others: Sequence[ClusterNode]) -> None:
    """Return once `node` serves the key's slot in its own eyes and in those of `others`."""
    slot = key_slot(key.encode())
    wait_for(
        lambda: all(_serving(each, slot) == [node.port] for each in (node, *others)),
        30,
        lambda: "\n".join(_told(each) for each in (node, *others)),
    )


def reshard(
    key: str, to: ClusterNode, cluster: LocalCluster, *, between: Callable[[], None] = lambda: None
) -> list[bytes]:
    """Move the key's slot with all its keys, one by one, as redis-cli does; return the keys. `between`: after each."""
    slot, old, moved = key_slot(key.encode()), primary_of(key, cluster), []
    to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(old))
    old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(to))
    while found := old.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
        old.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *found)
        moved += found
        between()
    primaries = [node for node in cluster.everyone if node.role == "master"]
    for node in (to, old, *primaries):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", id_of(to))
    promoted(to, key, primaries)
    return moved


def separate(replica: ClusterNode, primary: ClusterNode) -> None:
    """Let the replica get nothing from its primary any more, as over a broken link; it may take its place all the same.

    `rejoin` ends it.
    """
    for setting in ("masteruser", "masterauth"):
        replica.ask("CONFIG", "SET", setting, "nobody")
    primary.ask("CLIENT", "KILL", "TYPE", "replica")
    wait_for(
        lambda: replica.ask("INFO", "replication")["master_link_status"] == "down",
        10,
        lambda: str(replica.ask("INFO", "replication")),
    )


def rejoin(replica: ClusterNode) -> None:
    """Let the node follow a primary again, see `separate`."""
    for setting in ("masteruser", "masterauth"):
        replica.ask("CONFIG", "SET", setting, "")


def _serving(node: ClusterNode, slot: int) -> list[int]:
    """The port of the primary that serves the slot, as this node says."""
    return [port for first, last, (_, port, *_), *_ in node.ask("CLUSTER", "SLOTS") if first <= slot <= last]


def _myself(node: ClusterNode) -> str:
    return next(line.replace("myself,", "") for line in _told(node).splitlines() if "myself," in line)
