"""The doctor names every fault with a remedy, fails only on what loses or stops jobs, and changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from typer.testing import CliRunner, Result

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.app import app
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.doctor.examine import diagnose
from rollstream.producer.doctor.finding import FAIL, OK, WARN, Finding
from rollstream.producer.doctor.permissions import commands, refused_commands
from rollstream.producer.doctor.probe import ConsumerSeen, NodeSeen, PartitionSeen, Probe, Refusal
from rollstream.producer.operations.queue_state import Queue, Worker
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from tests.support.fault_steps import stub
from tests.support.worker_process import ROOT

HEALTHY_QUEUE = Queue(0, entries=9, waiting=2, pending=1, oldest_waiting_s=3.0, dead_letters=0)
HEALTHY_PARTITION = PartitionSeen(HEALTHY_QUEUE, True, (ConsumerSeen("w", 1), ConsumerSeen("gone", 0)), 0)
NOTHING_WAITS = {"waiting": 0, "oldest_waiting_s": None}
HEALTHY_INFO = {
    "redis_version": "7.0.15", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": "1000",
    "used_memory": "10", "aof_enabled": "1", "aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
}  # fmt: skip
HEALTHY = Probe(
    url="redis://x", policy="p", nodes=(NodeSeen("", HEALTHY_INFO, "everysec"),), round_trips_s=(0.001,),
    clock_ahead_s=0.01, refused_commands={}, wrong_types={}, partitions=(HEALTHY_PARTITION,), beyond=(),
    workers=(Worker("w", {"model": "m", "policy_version": "1", "lease_s": "30.0"}, 1.0),), newest_version=1,
    paused=False, paused_s_ago=None, lease_s=30.0, lease_agreed=30.0, lease_problem="", batches=(), no_version="",
    refusals=(),
)  # fmt: skip


def info(**changes: str) -> Probe:
    return replace(HEALTHY, nodes=(NodeSeen("", HEALTHY_INFO | changes, "everysec"),))


def appendfsync(policy: str) -> Probe:
    return replace(HEALTHY, nodes=(NodeSeen("", HEALTHY_INFO, policy),))


def partition(queue: dict[str, Any] | None = None, **changes: Any) -> Probe:
    seen = replace(HEALTHY_PARTITION, queue=replace(HEALTHY_QUEUE, **queue or {}), **changes)
    return replace(HEALTHY, partitions=(seen,))


def worker(consumer: str, **fields: str) -> Worker:
    return Worker(consumer, {"model": "m", "policy_version": "1"} | fields, 1.0)


def bad(found: Probe) -> list[Finding]:
    return [finding for finding in diagnose(found) if finding.level != OK]


def test_nothing_is_wrong_with_a_healthy_queue() -> None:
    assert bad(HEALTHY) == []
    assert {finding.remedy for finding in diagnose(HEALTHY)} == {""}


@pytest.mark.parametrize(
    ("found", "level", "check", "words"),
    [
        (replace(HEALTHY, lease_agreed=None, workers=()), OK, "lease", "none agreed yet"),
        (replace(HEALTHY, workers=(worker("w", lease_s="1"),)), FAIL, "lease", "30 s, but w has 1 s"),
        (replace(HEALTHY, lease_agreed=None, lease_problem="lease_ms is 'x'"), FAIL, "lease", "lease_ms is 'x'"),
        (info(redis_version="6.0.16"), FAIL, "version", "6.0.16"),
        (info(redis_version="6.2.0"), OK, "version", "6.2.0"),
        (info(redis_version="8.2.3"), OK, "version", "8.2.3"),
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
        (replace(HEALTHY, refused_commands={"EVAL": "NOPERM"}), FAIL, "rights", "EVAL: NOPERM"),
        (replace(HEALTHY, refused_commands={"XADD": "OOM", "DEL": "OOM"}), FAIL, "rights", "DEL, XADD: OOM"),
        (replace(HEALTHY, workers=(worker("w", paused_for="operator"),)), OK, "intake", "no worker waits"),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="memory,operator"), worker("v", paused_for=""))),
            FAIL, "intake", "1 of 2 workers take no jobs, Redis is nearly full: w",
        ),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="adapter cache,memory-like"), worker("v"))),
            WARN, "adapter cache", "1 of 2 workers cannot keep adapters and take no jobs: w",
        ),
        (
            replace(HEALTHY, workers=(worker("w", paused_for="adapter cache"),)),
            FAIL, "adapter cache", "1 of 1 workers cannot keep adapters",
        ),
        (replace(HEALTHY, nodes=(), refusals=(Refusal("run INFO", "NOPERM", "a"),)), WARN, "access", "INFO: NOPERM"),
        (replace(HEALTHY, refusals=(Refusal("read partition 0", "NOPERM", "a"),)), FAIL, "access", "partition 0"),
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
            WARN, "workers", "0 live, 0 jobs",
        ),
        (replace(HEALTHY, workers=(worker("w"), worker("v", model="n"))), WARN, "model", "model: m, n"),
        (
            replace(HEALTHY, workers=(worker("w"), worker("v", policy_version="2"))),
            WARN, "policy version", "policy version: 1, 2",
        ),
        (replace(HEALTHY, paused=True, paused_s_ago=90.0), WARN, "pause", "paused for 1 min 30 s"),
        (replace(HEALTHY, paused=True), WARN, "pause", "is paused"),
        (partition({"oldest_waiting_s": 601.0}), WARN, "backlog", "2 jobs waiting, the oldest for 10 min"),
        (
            partition(consumers=(ConsumerSeen("x", 2), ConsumerSeen("y", 1))),
            WARN, "consumers", "2 are gone and hold 3 jobs: x, y",
        ),
        (partition(stranded=2), WARN, "stranded", "2 jobs idle for more than 45 s, in partition 0"),
        (partition(NOTHING_WAITS, stranded=2), FAIL, "stranded", "2 jobs idle"),
        (replace(partition(NOTHING_WAITS, stranded=2), paused=True), WARN, "stranded", "2 jobs idle"),
        (replace(partition(stranded=2), workers=()), FAIL, "stranded", "2 jobs idle"),
        (partition({"dead_letters": 4}), WARN, "dead letters", "4"),
    ],
)  # fmt: skip
def test_every_fault_is_named_with_its_remedy(found: Probe, level: str, check: str, words: str) -> None:
    findings = [finding for finding in diagnose(found) if finding.check == check]
    assert [finding.level for finding in findings] == [level], findings
    assert words in findings[0].seen
    assert bool(findings[0].remedy) == (level != OK)
    others = [finding.check for finding in bad(found) if finding.check != check]
    assert set(others) <= {"consumers", "workers", "pause"}, others


# On a real Redis


def doctor(redis_url: str, policy: str, *args: str) -> Result:
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}
    return CliRunner(env=env).invoke(app, ["doctor", *args])


def findings(done: Result) -> dict[str, str]:
    """Level by check, of those that are not ok; a busy test machine may be slow to answer."""
    rows = json.loads(done.stdout)
    return {row["check"]: row["level"] for row in rows if row["level"] != OK and row["check"] != "round trip"}


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Any]:
    """A server that a test may break, and whose changes are its own."""
    with EmbeddedRedis(appendonly=True) as own, redis.Redis.from_url(own.url) as connected:
        connected.url = own.url
        yield connected


def test_a_healthy_queue_exits_0(own_redis: Any, policy: str) -> None:
    with stub(own_redis.url, policy), Client(own_redis.url, policy=policy) as client:
        client.submit([[1], [2]], None, GenerationConfig(max_new_tokens=2)).wait(20)
        done = doctor(own_redis.url, policy, "--json")
        assert (done.exit_code, findings(done)) == (0, {}), done.output
        table = doctor(own_redis.url, policy)
    assert table.exit_code == 0
    assert "fail" not in table.stdout


def test_the_doctor_changes_nothing(own_redis: Any, policy: str) -> None:
    """Redis counts every change of a key, whichever command makes it."""
    broken(own_redis, policy)
    before = own_redis.info("persistence")["rdb_changes_since_last_save"]
    keys = sorted(own_redis.keys("*"))
    assert doctor(own_redis.url, policy, "--partitions", "2").exit_code == 1
    assert doctor(own_redis.url, f"{policy}-unused").exit_code == 0
    assert own_redis.info("persistence")["rdb_changes_since_last_save"] == before
    assert sorted(own_redis.keys("*")) == keys


def broken(server: Any, policy: str) -> None:
    keys = Keys(policy)
    with Client(server.url, policy=policy) as client:
        client.submit([[1], [2]], None, GenerationConfig(max_new_tokens=2), prompts_per_job=1)
    server.xgroup_create(keys.jobs(0), GROUP, "0")
    server.xreadgroup(GROUP, "ghost", {keys.jobs(0): ">"}, count=1)
    server.xclaim(keys.jobs(0), GROUP, "ghost", 0, [server.xrange(keys.jobs(0))[0][0]], idle=100_000)
    server.xadd(keys.dead(0), {"letter": b"\xff", "payload": b""})
    server.hset(keys.control(), "paused", "1")
    server.set(keys.versions(), "x")
    server.xadd(keys.jobs(7), {"payload": "x"})
    server.hset(keys.worker("a\x1b[2J"), mapping={"model": "m"})
    server.hset(keys.worker("b"), mapping={"model": "n"})
    server.set(keys.worker("c"), "x")


def test_each_fault_of_a_broken_queue_is_named(own_redis: Any, policy: str) -> None:
    broken(own_redis, policy)
    own_redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        done = doctor(own_redis.url, policy, "--json")
        table = doctor(own_redis.url, policy)
    finally:
        own_redis.config_set("maxmemory-policy", "noeviction")
    assert done.exit_code == table.exit_code == 1
    assert findings(done) == {
        "eviction": FAIL, "key": FAIL, "partitions": FAIL, "model": WARN, "pause": WARN, "consumers": WARN,
        "stranded": WARN, "dead letters": WARN,
    }  # fmt: skip
    wrong = [row["seen"] for row in json.loads(done.stdout) if row["check"] == "key"]
    assert wrong == [f"{Keys(policy).versions()} is a string, not a stream",
                     f"{Keys(policy).worker('c')} is a string, not a hash"]  # fmt: skip
    assert "-> rollstream resume" in table.stdout
    assert "\x1b" not in table.stdout


def test_keys_of_another_type_hide_no_other_fault(own_redis: Any, policy: str) -> None:
    keys = Keys(policy, 2)
    for key in (keys.jobs(0), keys.control()):
        own_redis.set(key, "x")
    own_redis.xadd(keys.dead(1), {"letter": b"x", "payload": b""})
    done = doctor(own_redis.url, policy, "--json", "--partitions", "2")
    assert findings(done) == {"key": FAIL, "consumer group": WARN, "workers": WARN, "dead letters": WARN}


def test_jobs_without_a_worker_fail(own_redis: Any, policy: str) -> None:
    with Client(own_redis.url, policy=policy) as client:
        client.submit([[1]], None, GenerationConfig(max_new_tokens=2))
    done = doctor(own_redis.url, policy, "--json")
    assert (done.exit_code, findings(done)) == (1, {"consumer group": WARN, "workers": FAIL})


def test_rights_that_are_missing_are_named(own_redis: Any, policy: str) -> None:
    done = doctor(without(own_redis, "eval", "xautoclaim", "info", "config"), policy, "--json")
    rows = {row["check"]: row["seen"] for row in json.loads(done.stdout)}
    assert "EVAL: " in rows["rights"]
    assert "XAUTOCLAIM: " in rows["rights"]
    assert "XADD" not in rows["rights"]
    assert "pw" not in done.stdout
    assert findings(done) == {"access": WARN, "rights": FAIL, "consumer group": WARN, "workers": WARN}


def without(server: Any, *commands: str) -> str:
    """The URL of a user that may do everything but these."""
    user = f"without-{'-'.join(commands)}".replace("|", "-")
    rules = ["+@all", *(f"-{command}" for command in commands)]
    server.acl_setuser(user, enabled=True, passwords=["+pw"], commands=rules, keys=["rs:*"])
    return str(server.url.replace("redis://", f"redis://{user}:pw@"))


NEEDED = sorted({command.split()[0] for command in commands(Keys("p"))} - {"PING"} | {"EXEC", "MULTI"})
"""Without PING Redis is not there at all."""


@pytest.mark.parametrize("command", NEEDED)
async def test_each_command_that_is_denied_is_named_and_the_others_are_not(
    own_redis: Any, policy: str, command: str
) -> None:
    connection = Connection(without(own_redis, command.lower()), reconnect_s=0)
    before = own_redis.info("persistence")["rdb_changes_since_last_save"]
    refused = await connection.call("ask", partial(refused_commands, keys=Keys(policy)))
    await connection.aclose()
    assert {name.split()[0] for name in refused} == {command}
    assert own_redis.info("persistence")["rdb_changes_since_last_save"] == before
    assert own_redis.keys(f"rs:{{{policy}*") == []


async def test_a_user_with_all_rights_is_refused_nothing(own_redis: Any, policy: str) -> None:
    connection = Connection(own_redis.url, reconnect_s=0)
    assert await connection.call("ask", partial(refused_commands, keys=Keys(policy))) == {}
    await connection.aclose()


def test_every_command_of_a_script_is_asked_for() -> None:
    """`XGROUP`, `XINFO` and `MEMORY` with what follows them."""
    called = set()
    for script in (*ROOT.glob("worker/**/*.lua"), *ROOT.glob("producer/**/*.lua")):
        calls = re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.read_text())
        assert len(calls) == len(re.findall(r"redis\.p?call\(", script.read_text())), script
        called |= {f"{name} {second}" if name in ("XGROUP", "XINFO", "MEMORY") else name for name, second in calls}
    assert called
    assert called <= set(commands(Keys("p")))


def test_every_command_that_python_sends_is_asked_for() -> None:
    """By redis-py's names of them, where they are called on what holds a connection here."""
    words = {name.replace(" ", "_").lower() for name in commands(Keys("p"))}
    names = words | {"xpending_range", "scan_iter", "hscan_iter", "delete", "register_script", "execute_command"}
    names |= {"pipeline", "execute", "aclose", "close", "from_url", "connection_pool"}
    for file in (*ROOT.glob("worker/**/*.py"), *ROOT.glob("producer/**/*.py")):
        if file.parent.name not in ("doctor", "demo"):
            sent = re.findall(r"\b(?:redis|_redis|pipe|pipeline|client)\.([a-z_]+)\(", file.read_text())
            assert {name for name in sent if hasattr(AsyncRedis, name)} <= names, file


def test_a_replica_is_no_redis_for_a_queue(own_redis: Any, policy: str) -> None:
    with EmbeddedRedis() as replica, redis.Redis.from_url(replica.url) as server:
        server.replicaof("127.0.0.1", own_redis.url.rsplit(":", 1)[1].split("/")[0])
        done = doctor(replica.url, policy, "--json")
    assert done.exit_code == 1
    assert findings(done) | {"role": FAIL, "rights": FAIL} == findings(done)


@pytest.mark.parametrize(
    ("url", "seen", "remedy"),
    [
        ("redis://:secret@127.0.0.1:1/0", "127.0.0.1:1", "check the address"),
        ("http://127.0.0.1", "not a Redis URL", "write redis://"),
    ],
)
def test_no_redis_is_the_only_finding(policy: str, url: str, seen: str, remedy: str) -> None:
    done = doctor(url, policy, "--json")
    (finding,) = json.loads(done.stdout)
    assert (done.exit_code, finding["check"], finding["level"]) == (1, "redis", FAIL)
    assert seen in finding["seen"]
    assert remedy in finding["remedy"]
    assert "secret" not in done.output


def test_a_wrong_password_is_told_from_no_redis(own_redis: Any, policy: str) -> None:
    done = doctor(own_redis.url.replace("redis://", "redis://nobody:secret@"), policy, "--json")
    (finding,) = json.loads(done.stdout)
    assert "check the user and the password" in finding["remedy"]
    assert "secret" not in done.output
