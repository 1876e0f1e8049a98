"""A Redis Cluster behind the interface of one Redis: what producer and worker share of the way to Redis."""

from cluster.client import ClusterRedis, connected, is_split, nodes_of
from cluster.url import PREFIXES, is_cluster

__all__ = ["PREFIXES", "ClusterRedis", "connected", "is_cluster", "is_split", "nodes_of"]
