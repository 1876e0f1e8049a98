"""Which keys of a policy have no TTL although they should have one: such a key would stay in Redis for ever."""

from __future__ import annotations

from typing import Any

import redis

from rollstream.schemas import Keys
from rollstream.schemas.keys import totals


def _kind(key: str) -> str:
    """A key without its policy and partition, and without the name of a batch."""
    rest = key.partition("}:")[2]
    head, colon, _ = rest.partition(":")
    return head + colon if head in {"ledger", "results", "routing"} else rest


_ANY = Keys("any")
LASTING: dict[str, str] = {
    _kind(_ANY.jobs(0)): "a job waits until a worker takes it; what is finished is trimmed by its age",
    _kind(_ANY.dead(0)): "a dead letter waits for an operator, who requeues or drops it",
    _kind(_ANY.batches(0)): "an entry goes once its ledger has expired; the set is gone with the last",
    _kind(_ANY.versions()): "a worker that starts next month has to learn what is served",
    _kind(_ANY.activations()): "as the versions",
    _kind(_ANY.batches(0)): "a batch is in the index for as long as it has a ledger; workers take it off then",
    _kind(totals(_ANY.jobs(0))): "ten sums, which hold for as long as the queue",
    _kind(_ANY.control()): "a pause lasts until it is taken back, the lease for as long as there is a queue",
}
"""Kinds of keys that need no TTL, with the reason."""
UNTIL_ANSWERED = {
    _kind(_ANY.ledger("any")): "a batch may wait for its last answer for any time, which gives the ledger its TTL",
    _kind(_ANY.results("any")): "as its ledger",
    _kind(_ANY.routing("any")): "as its results, beside which it lies",
}
"""Kinds of keys that need no TTL while a group of their batch has no answer, with the reason."""


def without_ttl(server: redis.Redis, policy: str) -> list[str]:
    """Keys of `policy` that have no TTL and should have one, in order."""
    patterns = (f"rs:{{{policy}}}:*", f"rs:{{{policy}:*}}:*")
    keys = sorted(key.decode() for pattern in patterns for key in server.scan_iter(pattern, count=10_000))
    with server.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.ttl(key)
        lasting = [key for key, ttl in zip(keys, pipe.execute(), strict=True) if ttl == -1]
    wrong = [key for key in lasting if _kind(key) not in {*LASTING, *UNTIL_ANSWERED}]
    return wrong + [key for key in lasting if _kind(key) in UNTIL_ANSWERED and _is_answered(server, key)]


def _is_answered(server: Any, key: str) -> bool:
    """Whether no answer will come any more that would give `key` its TTL; so it is for results without a ledger."""
    ledger = key.replace("}:results:", "}:ledger:", 1).replace("}:routing:", "}:ledger:", 1)
    if not server.exists(ledger):
        return True
    done, groups = server.hmget(ledger, "done", "groups")
    return groups is not None and done == groups
