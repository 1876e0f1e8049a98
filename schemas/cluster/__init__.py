"""A Redis Cluster behind the interface of one Redis: what producer and worker share of the way to Redis."""

from schemas.cluster.client import ClusterRedis, connected, is_split, nodes_of

__all__ = ["ClusterRedis", "connected", "is_split", "nodes_of"]
