"""The way to Redis for producers and workers: a cluster behind the interface of a single Redis, faults, limits."""

from .cluster import ClusterRedis, connected, disconnected, is_split, nodes_of

__all__ = ["ClusterRedis", "connected", "disconnected", "is_split", "nodes_of"]
