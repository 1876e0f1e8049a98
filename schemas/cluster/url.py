"""`redis+cluster://host:port,host:port`: any of a cluster's nodes, of which one must be there to tell of the others."""

from __future__ import annotations

from urllib.parse import urlsplit

PREFIXES = "redis+cluster:// or rediss+cluster://"


def is_cluster(url: str) -> bool:
    """Whether the URL names nodes of a Redis Cluster."""
    return urlsplit(url).scheme in ("redis+cluster", "rediss+cluster")


def seeds(url: str) -> list[str]:
    """A URL of a single Redis for each node that `url` names.

    Raises `ValueError` for one with a database, a node without a name (which would be localhost) or a second login.
    """
    parts = urlsplit(url)
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a Redis Cluster has database 0 alone")
    scheme, (login, at, hosts) = parts.scheme.removesuffix("+cluster"), parts.netloc.rpartition("@")
    tail = f"/0?{parts.query}" if parts.query else "/0"
    if "@" in login:
        raise ValueError("one login is for all nodes: write it once, before the first")
    if "," in hosts and not all(hosts.split(",")):
        raise ValueError("there is a comma without a node")
    return [f"{scheme}://{login}{at}{host}{tail}" for host in hosts.split(",")]
