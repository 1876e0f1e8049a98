"""What producer and worker share of the way to Redis: a cluster behind the interface of one, faults, limits."""

from .cluster import ClusterRedis, connected, disconnected, is_split, nodes_of

__all__ = ["ClusterRedis", "connected", "disconnected", "is_split", "nodes_of"]
