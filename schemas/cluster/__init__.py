"""A Redis Cluster behind the interface of one Redis: what producer and worker share of the way to Redis."""

from schemas.cluster.client import ClusterRedis, connected, is_split, nodes_of
from schemas.cluster.url import PREFIXES, is_cluster

__all__ = ["PREFIXES", "ClusterRedis", "connected", "is_cluster", "is_split", "nodes_of"]
