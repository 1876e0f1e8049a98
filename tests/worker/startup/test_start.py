"""A worker's start: seen while it loads, under its own name; what never works ends it, what can pass is waited for."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as blocking
from redis.exceptions import ConnectionError as LinkError
from typer.testing import CliRunner

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.app import app
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent
from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from rollstream.worker.startup.redis_hopeless import why_hopeless
from rollstream.worker.startup.start import Start
from tests.support.worker_process import WorkerProcess, wait_for


def settings(url: str, policy: str, **more: Any) -> WorkerSettings:
    return WorkerSettings(policy=policy, engine="stub", redis=url, heartbeat_s=0.2, **more)


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedRedis]:
    """A server of its own, because the test changes its users and role."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def admin(own: EmbeddedRedis) -> Iterator[Any]:
    with blocking.Redis.from_url(own.url) as connected:
        yield connected


@pytest.fixture
async def start(redis_url: str, policy: str, tmp_path: Path) -> AsyncIterator[Start]:
    model = tmp_path / "qwen"
    model.mkdir()
    starting = Start(settings(redis_url, policy, consumer="w", model=model))
    yield starting
    starting.close()


async def test_a_worker_is_seen_while_its_start_blocks_everything(start: Start, server: Any, policy: str) -> None:
    key = Keys(policy).worker("w")

    await start.begin()

    first = server.hgetall(key)  # from here on this loop does nothing
    wait_for(lambda: server.hget(key, "seen_at") not in {None, first.get(b"seen_at")}, 20, lambda: str(first))
    report = server.hgetall(key)
    assert (report[b"state"], report[b"model"]) == (b"starting", b"qwen")
    assert server.ttl(key) > 10


async def test_status_and_doctor_show_a_worker_that_loads(
    start: Start, server: Any, redis_url: str, policy: str
) -> None:
    await start.begin()
    wait_for(lambda: server.hexists(Keys(policy).worker("w"), "state"), 20, lambda: "no report")

    def said(command: str) -> str:
        words = [command, "--policy", policy, "--redis", redis_url]
        return CliRunner().invoke(app, words, env={"COLUMNS": "200"}).output

    shown, judged = await asyncio.to_thread(said, "status"), await asyncio.to_thread(said, "doctor")

    assert "starting" in shown
    assert "qwen" in shown
    assert "1 live (1 starting: qwen)" in judged
    assert "workers live but do not read there" not in judged


async def test_a_start_that_ends_leaves_no_report(start: Start, server: Any, policy: str) -> None:
    await start.begin()
    start.close()

    assert not server.exists(Keys(policy).worker("w"))


@pytest.fixture
def same(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """A serving worker with a name that somebody chose."""
    worker = WorkerProcess(redis_url, policy, "--engine", "stub", "--consumer", "same")
    try:
        wait_for(lambda: "serving" in worker.log, 30, lambda: worker.log)
        yield worker
    finally:
        worker.end()


async def test_a_name_that_a_live_worker_has_is_refused(same: WorkerProcess) -> None:
    with pytest.raises(SettingsError, match="--consumer same: a live worker has this name"):
        await Start(settings(same.redis_url, same.policy, consumer="same")).begin()


async def test_the_name_of_a_killed_worker_is_free_at_once(same: WorkerProcess) -> None:
    os.kill(same.process.pid, signal.SIGKILL)
    same.process.wait(10)
    again = Start(settings(same.redis_url, same.policy, consumer="same"))
    try:
        async with asyncio.timeout(30):
            await again.begin()
    finally:
        again.close()


async def test_a_name_whose_worker_is_silent_elsewhere_is_free_when_its_report_ends(
    redis_url: str, policy: str, server: Any
) -> None:
    key = Keys(policy).worker("w")
    server.hset(key, mapping={"process": "elsewhere/1/ab", "seen_at": "1", "drain": "1"})
    start = Start(settings(redis_url, policy, consumer="w"))
    beginning = asyncio.create_task(start.begin())
    assert not (await asyncio.wait([beginning], timeout=0.3))[0], "it took a name that another has"

    server.pexpire(key, 1)
    await asyncio.wait_for(beginning, 20)

    start.close()
    assert server.hget(key, "drain") is None


async def refusal(url: str, policy: str, **more: Any) -> str:
    mine = settings(url, policy, **more)
    client = connect(url)
    try:
        async with asyncio.timeout(20):
            await wait_for_redis(client, mine)
    except SettingsError as error:
        return str(error)
    finally:
        await client.aclose()
    return ""


async def test_what_never_passes_is_refused_with_its_cause(own: EmbeddedRedis, admin: Any, policy: str) -> None:
    address = own.url.removeprefix("redis://").removesuffix("/0")
    admin.acl_setuser("secretive", enabled=True, passwords=["+right"], commands=["+@all"], keys=["*"])

    said = {
        "database": await refusal(f"redis://{address}/99", policy),
        "password": await refusal(f"redis://secretive:wrong@{address}", policy),
        "none asked": await refusal(f"redis://:wrong@{address}", policy),
        "TLS": await refusal(f"rediss://{address}", policy),
        "cluster": await refusal(f"redis+cluster://{address}", policy),
    }

    assert "no such database: name a lower one" in said["database"]
    assert "check the user and the password" in said["password"]
    assert "check the user and the password" in said["none asked"]
    assert "it speaks no TLS: write redis://" in said["TLS"]
    assert "it is no Redis Cluster" in said["cluster"]
    assert "wrong" not in "".join(said.values()).replace("WRONGPASS", "")


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        (["+@all", "-xautoclaim"], "XAUTOCLAIM on rs:{POLICY:*}:jobs"),
        (["+@all", "-multi"], "MULTI"),
        (["+@all", "-eval", "-evalsha"], "EVAL on rs:{POLICY:*}:batches"),
        (["+@read", "+@connection", "+info", "+multi", "+exec"], "EVAL on rs:{POLICY:*}:batches"),
    ],
    ids=lambda value: str(value)[-20:],
)
async def test_a_missing_right_is_named_with_its_key(
    own: EmbeddedRedis, admin: Any, policy: str, rights: list[str], named: str
) -> None:
    admin.acl_setuser("weak", enabled=True, nopass=True, keys=["*"], reset=True)
    admin.execute_command("ACL", "SETUSER", "weak", *rights)

    said = await refusal(own.url.replace("redis://", "redis://weak:x@"), policy)

    assert named.replace("POLICY", policy) in said
    assert f"`rollstream acl --role worker --policy {policy} --user weak" in said


async def test_keys_that_may_not_be_used_are_named(own: EmbeddedRedis, admin: Any, policy: str) -> None:
    admin.acl_setuser("weak", enabled=True, nopass=True, commands=["+@all"], keys=[f"rs:{{{policy}:*"], reset=True)

    said = await refusal(own.url.replace("redis://", "redis://weak:x@"), policy)

    assert f"DEL on rs:{{{policy}}}:activations" in said
    assert f"{{{policy}:" not in said


async def test_a_replica_is_waited_for_until_it_is_promoted(own: EmbeddedRedis, admin: Any, policy: str) -> None:
    admin.replicaof("127.0.0.1", "1")
    client = connect(own.url)
    waiting = asyncio.create_task(wait_for_redis(client, settings(own.url, policy)))
    try:
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        admin.replicaof("NO", "ONE")
        await asyncio.wait_for(waiting, 20)
    finally:
        await client.aclose()

    assert not done


@pytest.mark.parametrize(
    ("cause", "url", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "redis://h", "raise `ulimit -n`"),
        (OSError(errno.EACCES, "Permission denied"), "unix:///nowhere/r.sock", "may not write to that socket"),
        (OSError(errno.ENOENT, "No such file"), "unix:///nowhere/r.sock", None),
        (OSError(errno.ECONNREFUSED, "refused"), "unix:///etc/hostname", "something else than a socket"),
    ],
)
async def test_limits_and_rights_of_the_system_are_named(cause: OSError, url: str, said: str | None) -> None:
    error = LinkError("no connection")
    error.__cause__ = cause

    why = await why_hopeless(error, RedisAccess(url=url))

    assert (why is None) if said is None else said in (why or "")


def test_a_unix_socket_serves_trainer_command_line_and_worker(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "redis.sock"
    command = [str(find_redis_server()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent())
    url = f"unix://{path}?db=1"
    worker = WorkerProcess(url, policy, "--engine", "stub")
    try:
        with Client(url, policy=policy, reconnect_s=20) as client:
            wait_for(path.exists, 20, lambda: "no socket")
            found = client.generate([[5, 6]], None, GenerationConfig(max_new_tokens=2), timeout=30)
        shown = CliRunner().invoke(app, ["status", "--policy", policy, "--redis", url])
        code = worker.terminate()
    finally:
        worker.end()
        server.kill()
        server.wait()

    assert found.errors == {}
    assert shown.exit_code == 0
    assert code == 0


def test_a_cache_that_cannot_be_written_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--adapter-cache: /proc/none: .*name a folder"):
        CacheFolder(Path("/proc/none")).open()


async def test_no_temporary_folder_is_told_before_anything_is_loaded(
    redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)

    with pytest.raises(SettingsError, match="set TMPDIR"):
        await Start(settings(redis_url, policy, lora=True)).begin()
