"""A redis-server that speaks TLS and asks for a client's certificate, beside a plain port for the test's own looks."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rollstream.producer.demo.embedded_redis import EmbeddedRedis, free_port
from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.transport.redis.access import RedisAccess
from tests.support.redis_access.certificates import Authority, Pair

SEPARATE = "redis-server-tls"
"""What `tools/test_programs.sh` puts on PATH."""


@functools.cache
def tls_server() -> Path | None:
    """The redis-server that tests run by default if it speaks TLS, else the one that was installed for this."""
    separate = shutil.which(SEPARATE)
    candidates = [find_redis_server(), *([Path(separate)] if separate else [])]
    return next((binary for binary in candidates if _speaks_tls(binary)), None)


def require_tls() -> Path:
    """The server; the test skips where there is none."""
    found = tls_server()
    if found is None:
        pytest.skip("no redis-server here speaks TLS: tools/test_programs.sh installs one on Debian")
    return found


def _speaks_tls(binary: Path) -> bool:
    """One that knows the option complains about what it lacks, others about the option."""
    words = ["--port", "0", "--tls-port", "1", "--save", "", "--daemonize", "no"]
    try:
        said = subprocess.run([binary, *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "tls-cert-file" in said.stdout + said.stderr


class TlsRedis(EmbeddedRedis):
    """`mine`: the server's certificate; `ask_clients`: whether it wants one of theirs."""

    def __init__(self, authority: Authority, mine: Pair, *, ask_clients: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.binary = require_tls()
        self.tls_port = free_port()
        self.authority = authority
        self.mine = mine
        """What it shows from its next start on."""
        self._ask_clients = ask_clients

    def _command(self) -> list[str | Path]:
        words = tls_words(self.tls_port, self.authority, self.mine, ask_clients=self._ask_clients)
        return [*super()._command(), *words]

    def tls_url(self, host: str = "127.0.0.1") -> str:
        """The encrypted way."""
        return f"rediss://{host}:{self.tls_port}/0"

    def access(self, client: Pair | None, host: str = "127.0.0.1") -> RedisAccess:
        """The encrypted way, with the CA's file and a client's certificate."""
        cert, key = (None, None) if client is None else (client.cert, client.key)
        return RedisAccess(url=self.tls_url(host), ca=self.authority.ca, cert=cert, key=key)


def tls_words(port: int, authority: Authority, mine: Pair, *, ask_clients: bool = True) -> list[str]:
    """Arguments of a redis-server."""
    settings = {
        "tls-port": str(port),
        "tls-cert-file": str(mine.cert),
        "tls-key-file": str(mine.key),
        "tls-ca-cert-file": str(authority.ca),
        "tls-auth-clients": "yes" if ask_clients else "no",
        "bind": "* -::*",
        "protected-mode": "no",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def ask_by_tls(port: int, authority: Authority, mine: Pair, *command: str | int) -> Any:
    """The answer of a server on this machine."""
    files = {"ssl_ca_certs": authority.ca, "ssl_certfile": mine.cert, "ssl_keyfile": mine.key}
    named: dict[str, Any] = {name: str(file) for name, file in files.items()}
    with redis.Redis(port=port, ssl=True, socket_timeout=5, retry=Retry(NoBackoff(), 0), **named) as client:
        return client.execute_command(*command)


class TlsNode(ClusterNode):
    """A node that is reached by TLS alone, by its neighbours too."""

    def __init__(self, authority: Authority, mine: Pair) -> None:
        super().__init__()
        self.binary = require_tls()
        self.authority, self._mine = authority, mine

    def _command(self) -> list[str | Path]:
        words = [*tls_words(self.port, self.authority, self._mine), "--tls-cluster", "yes", "--port", "0"]
        return [*super()._command(), *words]

    def _answers(self, pid: int) -> bool:
        try:
            return bool(self.ask("PING")) and self.ask("INFO", "server")["process_id"] == pid
        except redis.RedisError:
            return False

    def ask(self, *command: str | int) -> Any:
        """Send a command to this node alone and return its answer."""
        return ask_by_tls(self.port, self.authority, self._mine, *command)


class TlsCluster(LocalCluster):
    """Three primaries that are reached by TLS alone."""

    def __init__(self, authority: Authority, mine: Pair) -> None:
        super().__init__()
        plain, self.nodes = self.nodes, [TlsNode(authority, mine) for _ in self.nodes]
        for node, before in zip(self.nodes, plain, strict=True):
            node.port = before.port

    @property
    def url(self) -> str:
        """The encrypted way."""
        return super().url.replace("redis+", "rediss+")
