"""The same servers and Sentinels, which speak TLS alone, to each other too, and want a certificate of everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.redis_access.certificates import Authority, Pair
from tests.support.redis_access.tls_redis import ask_by_tls, require_tls, tls_words
from tests.support.sentinel.servers import SentinelServer, Server, Watched


class TlsServer(Server):
    """One Redis."""

    def __init__(self, authority: Authority, mine: Pair, **settings: str) -> None:
        super().__init__(**settings)
        self.binary = require_tls()
        self._authority, self._mine = authority, mine

    def _command(self) -> list[str | Path]:
        words = tls_words(self.port, self._authority, self._mine)
        return [*super()._command(), *words, "--port", "0", "--tls-replication", "yes"]

    def ask(self, *command: str | int) -> Any:
        """Send a command to this server alone and return its answer."""
        return ask_by_tls(self.port, self._authority, self._mine, *command)


class TlsSentinel(SentinelServer):
    """One Sentinel."""

    def __init__(self, authority: Authority, mine: Pair, primary: Server) -> None:
        words = iter(tls_words(0, authority, mine))
        lines = {name.removeprefix("--"): value for name, value in zip(words, words, strict=True)}
        lines |= {"port": "0", "tls-replication": "yes", "bind": "127.0.0.1"}
        super().__init__(primary, lines=tuple(f"{name} {value}" for name, value in lines.items() if name != "tls-port"))
        self._lines = (*self._lines, f"tls-port {self.port}")
        self.binary = require_tls()
        self._authority, self._mine = authority, mine

    def ask(self, *command: str | int) -> Any:
        """Send a command to this Sentinel alone and return its answer."""
        return ask_by_tls(self.port, self._authority, self._mine, *command)


class TlsWatched(Watched):
    """A primary, a replica and three Sentinels, all with the certificate `mine`."""

    def __init__(self, authority: Authority, mine: Pair) -> None:
        super().__init__(replicas=1)
        self._authority, self._mine = authority, mine

    def _server(self, **settings: str) -> Server:
        return TlsServer(self._authority, self._mine, **settings)

    def _sentinel(self, primary: Server, *, lines: tuple[str, ...]) -> SentinelServer:
        assert not lines
        return TlsSentinel(self._authority, self._mine, primary)

    def url_of(self, *sentinels: Server) -> str:
        """The encrypted way."""
        return super().url_of(*sentinels).replace("redis+", "rediss+")
