"""Every fault that a probe saw is named with a remedy; a healthy queue has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollstream.producer.doctor.examine import diagnose
from rollstream.producer.doctor.finding import FAIL, OK, WARN, Finding
from rollstream.producer.doctor.seen import ConsumerSeen, Probe, Refusal
from rollstream.schemas.key_kinds import KeyKind as K
from rollstream.transport.acl import Right
from tests.support.examined import HEALTHY, NOTHING_WAITS, appendfsync, info, partition, worker


def bad(found: Probe) -> list[Finding]:
    return [finding for finding in diagnose(found) if finding.level != OK]


def test_a_wrong_clock_is_not_said_to_leave_leases_alone() -> None:
    (clock,) = [each for each in bad(replace(HEALTHY, clock_ahead_s=2.0)) if each.check == "clock"]

    assert "wrong once a replica with another clock is promoted" in clock.remedy


def test_nothing_is_wrong_with_a_healthy_queue() -> None:
    assert bad(HEALTHY) == []
    assert {finding.remedy for finding in diagnose(HEALTHY)} == {""}


@pytest.mark.parametrize(
    ("found", "level", "check", "words"),
    [
        (replace(HEALTHY, lease_agreed=None, workers=()), OK, "lease", "none agreed yet"),
        (replace(HEALTHY, workers=(worker("w", lease_s="1"),)), FAIL, "lease", "30 s, but w has 1.0 s"),
        (replace(HEALTHY, lease_agreed=None, lease_problem="lease_ms is 'x'"), FAIL, "lease", "lease_ms is 'x'"),
        (info(redis_version="6.0.16"), FAIL, "version", "6.0.16"),
        (info(redis_version="6.2.0"), OK, "version", "6.2.0"),
        (info(redis_version="8.2.3"), OK, "version", "8.2.3"),
        (info(redis_version="7.2.4", valkey_version="9.1.2"), OK, "version", "Valkey 9.1.2"),
        (info(redis_version="unstable"), WARN, "version", "unstable"),
        (info(role="slave", master_link_status="down"), FAIL, "role", "link to the primary is down"),
        (info(maxmemory_policy="allkeys-lru"), FAIL, "eviction", "allkeys-lru"),
        (info(used_memory="799"), OK, "memory", "MiB of"),
        (info(used_memory="800"), WARN, "memory", "MiB of"),
        (info(used_memory="950"), FAIL, "memory", "MiB of"),
        (info(used_memory="950", maxmemory="0"), OK, "memory", "no limit"),
        (info(aof_enabled="0"), WARN, "append-only file", "off"),
        (appendfsync("no"), WARN, "append-only file", "appendfsync no"),
        (appendfsync(""), OK, "append-only file", "appendfsync unknown"),
        (info(aof_last_write_status="err"), FAIL, "disk", "last write"),
        (info(aof_last_bgrewrite_status="err"), FAIL, "disk", "last rewrite"),
        (info(rdb_last_bgsave_status="err"), FAIL, "disk", "last snapshot"),
        (
            replace(HEALTHY, refused_rights={Right(command="EVAL", kind=K.DEAD): "no"}),
            FAIL,
            "rights",
            "EVAL on rs:{p:*}:dead: no",
        ),
        (
            replace(
                HEALTHY, refused_rights={Right(command="XADD", kind=""): "OOM", Right(command="DEL", kind=""): "OOM"}
            ),
            FAIL,
            "rights",
            "DEL, XADD: OOM",
        ),
        (replace(HEALTHY, workers=(worker("w", paused_for="operator"),)), OK, "intake", "no worker waits"),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="memory,operator"), worker("v", paused_for=""))),
            FAIL,
            "intake",
            "1 of 2 workers take no jobs, Redis is nearly full: w",
        ),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="adapter cache,memory-like"), worker("v"))),
            WARN,
            "adapter cache",
            "1 of 2 workers cannot keep adapters and take no jobs: w",
        ),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="adapter cache"),)),
            FAIL,
            "adapter cache",
            "1 of 1 workers cannot keep adapters",
        ),
        (
            replace(HEALTHY, nodes=(), refusals=(Refusal(what="run INFO", problem="NOPERM", advice="a"),)),
            WARN,
            "access",
            "INFO: NOPERM",
        ),
        (
            replace(HEALTHY, refusals=(Refusal(what="read partition 0", problem="NOPERM", advice="a"),)),
            FAIL,
            "access",
            "partition 0",
        ),
        (replace(HEALTHY, clock_ahead_s=2.0), WARN, "clock", "2.000 s ahead"),
        (replace(HEALTHY, clock_ahead_s=-2.0), WARN, "clock", "2.000 s behind"),
        (replace(HEALTHY, round_trips_s=(0.001, 0.03, 0.03)), WARN, "round trip", "30.0 ms"),
        (replace(HEALTHY, round_trips_s=(0.001, 0.001, 9)), OK, "round trip", "1.0 ms"),
        (replace(HEALTHY, wrong_types={"k": ("stream", "string")}), FAIL, "key", "k is a string, not a stream"),
        (replace(HEALTHY, beyond=(3, 5)), FAIL, "partitions", "partition 3, 5"),
        (partition(group=False), FAIL, "consumer group", "missing in partition 0"),
        (partition({"waiting": 0, "pending": 0}, group=False), FAIL, "consumer group", "missing in partition 0"),
        (replace(partition(group=False), workers=()), WARN, "consumer group", "missing in partition 0"),
        (replace(HEALTHY, workers=()), FAIL, "workers", "0 live, 3 jobs unfinished"),
        (replace(partition({"waiting": 0, "pending": 1}), workers=()), FAIL, "workers", "1 jobs unfinished"),
        (replace(partition({"waiting": None, "pending": 0}), workers=()), FAIL, "workers", "1 jobs unfinished"),
        (
            replace(partition({"waiting": 0, "pending": 0, "oldest_waiting_s": None}), workers=()),
            WARN,
            "workers",
            "0 live, 0 jobs",
        ),
        (replace(HEALTHY, workers=(worker("w"), worker("v", model="n"))), WARN, "model", "model: m, n"),
        (
            replace(HEALTHY, workers=(worker("w"), worker("v", policy_version="2"))),
            WARN,
            "policy version",
            "policy version: 1, 2",
        ),
        (replace(HEALTHY, paused=True, paused_s_ago=90.0), WARN, "pause", "paused for 1 min 30 s"),
        (replace(HEALTHY, paused=True), WARN, "pause", "is paused"),
        (partition({"oldest_waiting_s": 601.0}), WARN, "backlog", "2 jobs waiting, the oldest for 10 min"),
        (
            partition(consumers=(ConsumerSeen(name="x", pending=2), ConsumerSeen(name="y", pending=1))),
            WARN,
            "consumers",
            "2 are gone and hold 3 jobs: x, y",
        ),
        (partition(stranded=2), WARN, "stranded", "2 jobs idle for more than 45 s, in partition 0"),
        (partition(NOTHING_WAITS, stranded=2), FAIL, "stranded", "2 jobs idle"),
        (replace(partition(NOTHING_WAITS, stranded=2), paused=True), WARN, "stranded", "2 jobs idle"),
        (replace(partition(stranded=2), workers=()), FAIL, "stranded", "2 jobs idle"),
        (partition({"dead_letters": 4}), WARN, "dead letters", "4"),
    ],
)
def test_every_fault_is_named_with_its_remedy(found: Probe, level: str, check: str, words: str) -> None:
    findings = [finding for finding in diagnose(found) if finding.check == check]
    assert [finding.level for finding in findings] == [level], findings
    assert words in findings[0].seen
    assert bool(findings[0].remedy) == (level != OK)
    others = [finding.check for finding in bad(found) if finding.check != check]
    assert set(others) <= {"consumers", "workers", "pause"}, others
