"""On a real Redis the doctor names every fault, fails only on what loses or stops jobs, and changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from typer.testing import Result

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.doctor.finding import FAIL, OK, WARN
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP, totals
from rollstream.transport.acl import Role, Server, User, setuser
from rollstream.transport.acl.commands import COMMANDS, NOT_GIVEN
from tests.support.examined import doctor
from tests.support.fault_steps import stub
from tests.support.reports import index, report_of
from tests.support.worker_process import ROOT


def findings(done: Result) -> dict[str, str]:
    """Level by check, of those that are not ok; a busy test machine may be slow to answer."""
    rows = json.loads(done.stdout)
    return {row["check"]: row["level"] for row in rows if row["level"] != OK and row["check"] != "round trip"}


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Any]:
    """A server of its own, which a test may break."""
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
    report_of(server, keys, "a\x1b[2J", {"model": "m"})
    report_of(server, keys, "b", {"model": "n"})
    server.set(keys.worker("c"), "x")
    index(server, keys, "c")


def test_indexes_and_sums_that_became_something_else_are_named(own_redis: Any, policy: str) -> None:
    keys = Keys(policy)
    wrong = {
        keys.batches(0): "zset",
        totals(keys.jobs(0)): "hash",
        keys.rate(): "hash",
        keys.workers(): "zset",
    }
    for key in wrong:
        own_redis.set(key, "x")

    rows = json.loads(doctor(own_redis.url, policy, "--json").stdout)

    seen = [row["seen"] for row in rows if row["check"] == "key"]
    assert seen == [f"{key} is a string, not a {kind}" for key, kind in sorted(wrong.items())]


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
    keys = Keys(policy, partitions=2)
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
    done = doctor(without(own_redis, "eval", "xautoclaim", "info", "config"), policy, "--json", "--role", "worker")
    rows = {row["check"]: row["seen"] for row in json.loads(done.stdout)}
    remedies = {row["check"]: row["remedy"] for row in json.loads(done.stdout)}
    assert re.search(rf"EVAL on [^,]*rs:{{{policy}:\*}}:jobs", rows["rights"])
    assert f"XAUTOCLAIM on rs:{{{policy}:*}}:jobs" in rows["rights"]
    assert f"`rollstream acl --role worker --policy {policy} --user without-eval-" in remedies["rights"]
    assert "XADD" not in rows["rights"]
    assert "pw" not in done.stdout
    assert findings(done) == {"rights": FAIL}


def without(server: Any, *commands: str) -> str:
    """The URL of a user that may do everything but these."""
    user = f"without-{'-'.join(commands)}".replace("|", "-")
    rules = ["+@all", *(f"-{command}" for command in commands)]
    server.acl_setuser(user, enabled=True, passwords=["+pw"], commands=rules, keys=["rs:*"])
    return str(server.url.replace("redis://", f"redis://{user}:pw@"))


def test_every_command_of_a_script_is_in_the_table() -> None:
    """`XGROUP`, `XINFO` and `MEMORY` with what follows them."""
    called = set()
    for script in (found for room in ("worker", "producer", "transport") for found in ROOT.glob(f"{room}/**/*.lua")):
        calls = re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.read_text())
        assert len(calls) == len(re.findall(r"redis\.p?call\(", script.read_text())), script
        called |= {f"{name} {second}" if name in ("XGROUP", "XINFO", "MEMORY") else name for name, second in calls}
    assert called
    assert called <= COMMANDS.keys()


def test_every_command_that_python_sends_is_in_the_table() -> None:
    """By redis-py's names of them, where they are called on what holds a connection here."""
    words = {name.replace(" ", "_").lower() for name in COMMANDS.keys() | NOT_GIVEN}
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


def test_of_an_operator_with_the_rights_of_the_table_nothing_is_wrong(own_redis: Any, policy: str) -> None:
    six = own_redis.info("server")["redis_version"].startswith("6.")
    user = User(name="operator", role=Role.OPERATOR, policy=policy, secret=">pw")
    own_redis.execute_command(*setuser(user, Server.SIX if six else Server.SEVEN))

    done = doctor(own_redis.url.replace("//", "//operator:pw@"), policy, "--json")

    assert findings(done) == {"consumer group": WARN, "workers": WARN}
