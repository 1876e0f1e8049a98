"""The embedded redis-server: really starts, really survives, and is really gone afterwards."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rollstream.producer.demo.embedded_redis import EmbeddedRedis, RedisServerStartError, die_with_parent, free_port
from rollstream.producer.demo.redis_server import (
    CHOSEN,
    RedisServerMissingError,
    RedisServerRefusedError,
    find_redis_server,
)
from rollstream.schemas import RollstreamError

ROOT = Path(__file__).resolve().parents[3]


def connect(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def until(state: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not state():
        assert time.monotonic() < deadline, "the state was not reached in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """PATH is `folder`, and the environment names no other redis-server."""
    monkeypatch.delenv(CHOSEN, raising=False)
    monkeypatch.setenv("PATH", str(folder))


def test_answers_ping_inside_the_block_and_leaves_nothing_behind() -> None:
    with EmbeddedRedis() as server:
        client = connect(server)
        assert client.ping()
        pid = server.pid
        folder = Path(str(client.config_get("dir")["dir"]))
    assert pid is not None
    assert gone(pid)
    assert not folder.exists()
    assert server.pid is None


def test_listens_on_loopback_only_keeps_what_it_holds_and_writes_no_snapshot() -> None:
    with EmbeddedRedis() as server:
        settings = connect(server).config_get("*")
    wanted = {"bind": "127.0.0.1", "maxmemory-policy": "noeviction", "save": "", "appendonly": "no"}
    assert {name: settings[name] for name in wanted} == wanted


def test_append_only_data_survives_a_kill_and_a_restart_on_the_same_url() -> None:
    with EmbeddedRedis(appendonly=True) as server:
        url, first_pid = server.url, server.pid
        for number in range(200):
            connect(server).xadd("stream", {"number": number})
        server.kill()
        assert server.pid is None
        server.start()
        assert (server.url, connect(server).xlen("stream")) == (url, 200)
        assert server.pid != first_pid


def test_without_append_only_a_restart_comes_back_empty() -> None:
    with EmbeddedRedis() as server:
        connect(server).set("key", "value")
        server.stop()
        server.start()
        assert connect(server).dbsize() == 0


def test_start_of_a_running_server_changes_nothing() -> None:
    with EmbeddedRedis() as server:
        pid = server.pid
        server.start()
        assert server.pid == pid


def test_stop_ends_a_server_that_does_not_react() -> None:
    with EmbeddedRedis() as server:
        pid = server.pid
        assert pid is not None
        psutil.Process(pid).suspend()
        server.stop(timeout_s=0.2)
        assert gone(pid)


def test_two_servers_do_not_meet() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as other:
        connect(one).set("key", "value")
        assert connect(other).dbsize() == 0


def test_a_port_that_was_taken_in_between_is_given_up_for_a_free_one() -> None:
    with EmbeddedRedis() as first:
        second = EmbeddedRedis()
        second.port = first.port
        with second:
            assert second.port != first.port
            assert connect(second).ping()


def test_a_restart_on_a_port_that_was_taken_meanwhile_says_so() -> None:
    with EmbeddedRedis() as first:
        second = EmbeddedRedis()
        second.port = first.port
        with pytest.raises(RedisServerStartError, match="Address already in use"):
            second.start()


@contextlib.contextmanager
def parent_of_a_server(tmp_path: Path, last_words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs a server, prints its pid, and `last_words` at Ctrl-C; with the server's pid."""
    program = (
        "import time; from rollstream.producer.demo.embedded_redis import EmbeddedRedis\n"
        "with EmbeddedRedis() as server:\n"
        "    try: print(server.pid, flush=True); time.sleep(600)\n"
        f"    except KeyboardInterrupt: print({last_words}, flush=True)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # after a SIGKILL nobody removes the server's folder
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        assert parent.stdout is not None
        try:
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_parent_killed_without_warning_takes_its_server_along(tmp_path: Path) -> None:
    with parent_of_a_server(tmp_path, "''") as (parent, server_pid):
        assert not gone(server_pid)
        parent.kill()
        until(lambda: gone(server_pid))


def test_ctrl_c_in_the_terminal_ends_the_block_not_the_server(tmp_path: Path) -> None:
    with parent_of_a_server(tmp_path, "server._answers(server.pid)") as (parent, server_pid):
        assert os.getpgid(server_pid) != parent.pid  # the terminal signals the group in its foreground
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout is not None
        assert parent.stdout.readline() == "True\n"
        assert parent.wait(20) == 0
    assert gone(server_pid)
    assert not any(tmp_path.iterdir())


def test_die_with_parent_is_refused_off_the_main_thread() -> None:
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            die_with_parent()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_a_server_on_path_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "redis-server").symlink_to(find_redis_server())
    only_on_path(monkeypatch, tmp_path)
    assert find_redis_server() == tmp_path / "redis-server"


def test_the_server_that_the_environment_names_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "redis-server").symlink_to(find_redis_server())
    chosen = tmp_path / "another"
    chosen.symlink_to(find_redis_server())
    only_on_path(monkeypatch, tmp_path)
    monkeypatch.setenv(CHOSEN, str(chosen))
    assert EmbeddedRedis().binary == chosen


UNUSABLE = {
    "no such file": None,
    "may not be executed": "",
    "does not say which Redis": "#!/bin/sh\n",
    r"Redis 6\.0\.16, older than 6\.2": "#!/bin/sh\necho 'Redis server v=6.0.16 sha=0 bits=64'\n",
}


@pytest.mark.parametrize("problem", UNUSABLE)
def test_an_unusable_server_that_the_environment_names_is_an_error_not_a_reason_for_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: str
) -> None:
    chosen, text = tmp_path / "redis-6", UNUSABLE[problem]
    if text:
        executable(chosen, text)
    elif text is not None:
        chosen.touch()
    monkeypatch.setenv(CHOSEN, str(chosen))
    with pytest.raises(RedisServerRefusedError, match=rf"{CHOSEN}={chosen}: .*{problem}") as caught:
        find_redis_server()
    assert caught.value.binary == chosen


def test_a_server_that_is_too_old_is_named_when_no_other_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = executable(tmp_path / "redis-server", "#!/bin/sh\necho 'Redis server v=6.0.16 sha=0 bits=64'\n")
    only_on_path(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(RedisServerMissingError, match=r"older than 6\.2") as caught:
        find_redis_server()
    assert caught.value.refused == str(old)


def test_no_server_anywhere_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_on_path(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(RedisServerMissingError, match=r"rollstream\[embedded\].*apt install redis-server") as caught:
        EmbeddedRedis()
    assert isinstance(caught.value, RollstreamError)


def test_a_server_that_cannot_start_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = "#!/bin/sh\n[ $1 = --version ] && echo v=8.0.0 && exit\necho 'cannot open shared object file'; exit 127\n"
    executable(tmp_path / "redis-server", broken)
    only_on_path(monkeypatch, tmp_path)
    with pytest.raises(RedisServerStartError, match="exited with 127") as caught, EmbeddedRedis():
        pass
    assert caught.value.log_tail == "cannot open shared object file"


def test_a_server_that_never_answers_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    silent = f"#!/bin/sh\n[ $1 = --version ] && echo v=8.0.0 && exit\necho $$ > {pid_file}; exec /bin/sleep 600\n"
    executable(tmp_path / "redis-server", silent)
    only_on_path(monkeypatch, tmp_path)
    with (
        pytest.raises(RedisServerStartError, match=r"gave no answer on port \d+ in 0.5 s"),
        EmbeddedRedis(start_timeout_s=0.5),
    ):
        pass
    assert gone(int(pid_file.read_text()))


def test_free_ports_lie_outside_the_range_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port() < lowest for _ in range(50))
