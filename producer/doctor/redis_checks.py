"""The doctor's checks of Redis itself: can it hold a queue, does it keep it, is it near? Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import replace

from rollstream.transport.acl import Right, Role, named, other_login, remedy
from rollstream.transport.redis.tls import CHECK, UNCHECKED

from ..errors import RedisUnavailableError
from .finding import FAIL, OK, WARN, Finding, graded
from .replica_checks import replica_findings
from .seen import NodeSeen, Probe

_OLDEST = (6, 2)
_FAR_S = 0.02
_CLOCK_OFF_S = 1.0
_CONFIG = "run CONFIG GET"
_NAMED = re.compile(r"(?<=to run )the '[^']*' command")
_A = {role: f"{'an' if role.value[0] in 'eo' else 'a'} {role.value}" for role in Role}
_MEMORY_WARN, _MEMORY_FAIL = 0.8, 0.95

FREES_MEMORY = (
    "raise maxmemory; or run `rollstream dead drop`; or give workers a smaller --retention-bytes or "
    "--partials-policy-bytes, and a shorter --result-ttl-s for future results. Reading results frees nothing: they go "
    "when they expire"
)


def unreachable(error: RedisUnavailableError) -> Finding:
    """The only finding when Redis cannot be reached."""
    return Finding(check="redis", level=FAIL, seen=f"{error.url}: {error.problem}", remedy=error.advice)


def redis_findings(found: Probe) -> Iterator[Finding]:
    """The findings, in the order in which an operator should mend them."""
    yield graded("redis", f"{found.url} answers", remedy="")
    if found.is_unchecked:
        yield Finding(check="certificate", level=WARN, seen=f"ssl_cert_reqs=none: {UNCHECKED}", remedy=CHECK)
    yield from _refusals(found)
    for node in found.nodes:
        for finding in _node_findings(node) if node.info else ():
            yield replace(finding, seen=f"{node.name}: {finding.seen}") if node.name else finding
    yield from replica_findings(found)
    yield _rights(found)
    yield _clock(found)
    yield _round_trip(found)


def _node_findings(node: NodeSeen) -> Iterator[Finding]:
    yield _version(node)
    yield _role(node)
    yield _eviction(node)
    yield _memory(node)
    yield _append_only_file(node)
    yield from _last_saves(node)


def _refusals(found: Probe) -> Iterator[Finding]:
    """Without INFO or CONFIG, which managed services often forbid, some facts are unknown: only a warning.

    No role has CONFIG GET, so where that is denied all is as it should be. Of other roles than operators only the
    rights are judged: they are not meant to read all that is asked here.
    """
    for refusal in found.refusals:
        seen, advice = f"cannot {refusal.what}: {refusal.problem}", refusal.advice
        level = WARN if refusal.what in {"run INFO", _CONFIG} else FAIL
        if refusal.is_denied and refusal.what == _CONFIG:
            level, advice = OK, ""
        elif refusal.is_denied and found.role is not Role.OPERATOR:
            continue
        yield Finding(check="access", level=level, seen=seen, remedy=advice)


def _version(found: NodeSeen) -> Finding:
    version, valkey = found.info.get("redis_version", ""), found.info.get("valkey_version", "")
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return graded(
        "version",
        f"Valkey {valkey}, which is as Redis {version}" if valkey else version or "unknown",
        fail=len(parts) == 2 and parts < _OLDEST,
        warn=len(parts) < 2,
        remedy="Rollstream needs Redis 6.2 or newer",
    )


def _role(found: NodeSeen) -> Finding:
    role = found.info.get("role", "unknown")
    link = found.info.get("master_link_status")
    return graded(
        "role",
        role if link is None else f"{role}, its link to the primary is {link}",
        fail=role == "slave",
        remedy="a replica takes no writes: give producers and workers the URL of the primary",
    )


def _eviction(found: NodeSeen) -> Finding:
    policy = found.info.get("maxmemory_policy", "unknown")
    return graded(
        "eviction",
        f"maxmemory-policy {policy}",
        fail=policy != "noeviction",
        remedy="CONFIG SET maxmemory-policy noeviction: any other drops jobs and results when memory is short",
    )


def _memory(found: NodeSeen) -> Finding:
    used, limit = (_number(found.info.get(name)) for name in ("used_memory", "maxmemory"))
    if not limit:
        return graded("memory", f"{_mib(used)} used, no limit", remedy="")
    return graded(
        "memory",
        f"{_mib(used)} of {_mib(limit)} used",
        fail=used >= _MEMORY_FAIL * limit,
        warn=used >= _MEMORY_WARN * limit,
        remedy=FREES_MEMORY,
    )


def _append_only_file(found: NodeSeen) -> Finding:
    on = found.info.get("aof_enabled") == "1"
    fsync = found.appendfsync or "unknown"
    if not on:
        remedy = "CONFIG SET appendonly yes: without it a crash of Redis loses the queue"
        return graded("append-only file", "off", warn=True, remedy=remedy)
    return graded(
        "append-only file",
        f"on, appendfsync {fsync}",
        warn=fsync == "no",
        remedy="CONFIG SET appendfsync everysec: with `no` a crash may lose half a minute of the queue",
    )


def _last_saves(found: NodeSeen) -> Iterator[Finding]:
    for name, what in (
        ("aof_last_write_status", "last write of the append-only file"),
        ("aof_last_bgrewrite_status", "last rewrite of the append-only file"),
        ("rdb_last_bgsave_status", "last snapshot"),
    ):
        status = found.info.get(name, "ok")
        if status != "ok":
            remedy = "see Redis' log and its disk: Redis may refuse writes until a save succeeds"
            yield Finding(check="disk", level=FAIL, seen=f"{what}: {status}", remedy=remedy)


def _rights(found: Probe) -> Finding:
    by_words: dict[str, list[Right]] = {}
    for right, said in sorted(found.refused_rights.items()):
        by_words.setdefault(_NAMED.sub("this command", said), []).append(right)
    refused = "; ".join(f"{named(rights, found.policy)}: {said}" for said, rights in by_words.items())
    return graded(
        "rights",
        refused or f"all that {_A[found.role]} needs",
        fail=bool(refused),
        remedy=_advice(found),
    )


def _advice(found: Probe) -> str:
    """Who asks for the rights of an operator need not have said so, and the user may be for another role."""
    versions = [version for node in found.nodes if (version := node.info.get("redis_version", ""))]
    is_old = any(version.startswith("6.") for version in versions) if versions else None
    if found.role is Role.OPERATOR:
        return other_login(found.role, found.policy, is_old=is_old)
    return remedy(found.role, found.policy, found.user, is_old=is_old)


def _clock(found: Probe) -> Finding:
    ahead = found.clock_ahead_s
    return graded(
        "clock",
        f"Redis' clock is {abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} ours",
        warn=abs(ahead) > _CLOCK_OFF_S,
        remedy="set both machines' clocks by NTP: ages and queueing times are wrong by as much. Leases go by "
        "Redis' clock alone, and are wrong once a replica with another clock is promoted",
    )


def _round_trip(found: Probe) -> Finding:
    median = statistics.median(found.round_trips_s)
    return graded(
        "round trip",
        f"{1000 * median:.1f} ms, the median of {len(found.round_trips_s)}",
        warn=median > _FAR_S,
        remedy="move Redis nearer to the workers, or see with SLOWLOG GET what keeps it busy",
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
