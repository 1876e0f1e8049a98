"""What tests of the cluster client ask of it and of the nodes."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from rollstream.transport.redis import connected


def impatient(cluster: LocalCluster, **settings: float) -> Redis:
    """A client that tries nothing twice."""
    return connected(cluster.url, retry=Retry(NoBackoff(), 0), protocol=2, decode_responses=False, **settings)


def id_of(node: ClusterNode) -> str:
    found: bytes = node.ask("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else found
