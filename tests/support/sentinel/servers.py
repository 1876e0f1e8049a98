"""One primary, two replicas and three Sentinels; each can be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, cast

import redis

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.worker_process import wait_for

SERVICE = "rollouts"
DOWN_AFTER_MS = 2000


class Server(EmbeddedRedis):
    """A Redis with settings beyond those of the demo."""

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.settings = settings

    def _command(self) -> list[str | Path]:
        extra = {"repl-diskless-sync-delay": "0", "repl-timeout": "10", **self.settings}
        return [*super()._command(), *(word for name, value in extra.items() for word in (f"--{name}", *value.split()))]

    password = ""

    def ask(self, *command: str | int) -> Any:
        """Send a command to this server alone and return its answer."""
        with redis.Redis(port=self.port, socket_timeout=2, password=self.password or None) as client:
            return client.execute_command(*command)

    def _answers(self, pid: int) -> bool:
        try:
            return bool(self.ask("INFO", "server")["process_id"] == pid)
        except redis.RedisError:
            return False

    def facts(self) -> dict[str, Any]:
        """INFO replication; empty if it does not answer."""
        try:
            return cast("dict[str, Any]", self.ask("INFO", "replication"))
        except redis.RedisError:
            return {}

    def freeze(self) -> None:
        """Stop the process until `thaw`: it answers nothing and closes nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


class SentinelServer(Server):
    """One Sentinel. It writes what it learns into its configuration, and knows it again when it is started again."""

    def __init__(self, primary: Server, *, quorum: int = 2, lines: tuple[str, ...] = ()) -> None:
        super().__init__()
        passwords = [line.removeprefix("requirepass ") for line in lines if line.startswith("requirepass ")]
        self.password = next(iter(passwords), "")
        self._lines = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 4000",
            *lines,
        )

    def _command(self) -> list[str | Path]:
        file = Path(self._folder.name, "sentinel.conf")
        if not file.exists():
            head = (f"port {self.port}", "bind 127.0.0.1", f"dir {self._folder.name}")
            file.write_text("\n".join((*head, *self._lines)) + "\n")
        return [self.binary, file, "--sentinel"]

    def told(self) -> int:
        """The port of the primary, as this Sentinel knows it."""
        found = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1])


class Watched:
    """The servers, inside the `with` block."""

    def __init__(self, *, replicas: int = 2, sentinels: int = 3, lines: tuple[str, ...] = (), **settings: str) -> None:
        self._counts = replicas, sentinels
        self._lines = lines
        self._settings = settings
        self._running = ExitStack()
        self.servers: list[Server] = []
        self.sentinels: list[SentinelServer] = []

    def __enter__(self) -> Self:
        with ExitStack() as running:
            replicas, sentinels = self._counts
            self.servers = [running.enter_context(self._server(**self._settings))]
            first = self.servers[0]
            for _ in range(replicas):
                replica = self._server(**self._settings, replicaof=f"127.0.0.1 {first.port}")
                self.servers.append(running.enter_context(replica))
            wait_for(self.is_whole, 15, lambda: str(first.facts()))
            for _ in range(sentinels):
                self.sentinels.append(running.enter_context(self._sentinel(first, lines=self._lines)))
            wait_for(self._are_introduced, 15, self.told)
            self._running = running.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        for each in (*self.servers, *self.sentinels):
            each.thaw()
        self._running.close()

    def _server(self, **settings: str) -> Server:
        return Server(**settings)

    def _sentinel(self, primary: Server, *, lines: tuple[str, ...]) -> SentinelServer:
        return SentinelServer(primary, lines=lines)

    @property
    def url(self) -> str:
        """The URL for `--redis` and the clients."""
        return self.url_of(*self.sentinels)

    def url_of(self, *sentinels: Server) -> str:
        """The same, of some Sentinels."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in sentinels)}/{SERVICE}"

    @property
    def primary(self) -> Server:
        """The server that the Sentinels name."""
        alive = next(each for each in self.sentinels if each.pid is not None)
        return next(server for server in self.servers if server.port == alive.told())

    def is_whole(self) -> bool:
        """Whether all other servers replicate the primary."""
        primaries = [each for each in self.servers if each.facts().get("role") == "master"]
        if len(primaries) != 1:
            return False
        facts = primaries[0].facts()
        online = [facts[f"slave{n}"] for n in range(int(facts["connected_slaves"]))]
        return len([each for each in online if each["state"] == "online"]) == len(self.servers) - 1

    @contextlib.contextmanager
    def replication_stopped(self) -> Iterator[None]:
        """No replica gets what is written in the block; what is killed in it loses that."""
        primary = self.primary
        replicas = [each for each in self.servers if each is not primary]
        _log_in_as(replicas, "nobody")
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        wait_for(lambda: not primary.facts()["connected_slaves"], 10, lambda: str(primary.facts()))
        try:
            yield
        finally:
            _log_in_as(replicas, "")

    @contextlib.contextmanager
    def replicas_frozen(self) -> Iterator[None]:
        """The replicas stay connected and take nothing in the block, which is shorter than `repl-timeout`."""
        replicas = [each for each in self.servers if each is not self.primary]
        for each in replicas:
            each.freeze()
        try:
            yield
        finally:
            for each in replicas:
                each.thaw()

    def mend(self) -> None:
        """Start and wake all that a test has killed or frozen; return once all replicate the primary."""
        for each in (*self.servers, *self.sentinels):
            each.thaw()
            each.start()
        wait_for(self.is_whole, 30, lambda: str([each.facts() for each in self.servers]))

    def told(self) -> str:
        """What each Sentinel knows, for the text of a failure."""
        return "\n".join(str(each.ask("SENTINEL", "MASTER", SERVICE)) for each in self.sentinels)

    def _are_introduced(self) -> bool:
        return all(self._knows_all(each) for each in self.sentinels)

    def _knows_all(self, sentinel: SentinelServer) -> bool:
        named = _facts(sentinel.ask("SENTINEL", "MASTER", SERVICE))
        replicas, sentinels = self._counts
        return int(named["num-slaves"]) == replicas and int(named["num-other-sentinels"]) == sentinels - 1

    def fail_over(self) -> Server:
        """As an operator does it: the old primary lives, and takes writes for some seconds yet. The new one."""
        before = self.primary
        wait_for(self.accepts_failover, 20, self.told)
        return self.until_promoted(before)

    def epoch(self) -> int:
        """Grows with each failover, also with one that nobody asked for: a busy machine looks dead to a Sentinel."""
        return max(int(_facts(each.ask("SENTINEL", "MASTER", SERVICE))["config-epoch"]) for each in self.sentinels)

    def accepts_failover(self) -> bool:
        """Whether a Sentinel was told to promote another, and will."""
        try:
            self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:  # one is under way, or it does not know a good replica yet
            return False
        return True

    def until_promoted(self, before: Server, timeout_s: float = 30) -> Server:
        """Wait until all Sentinels that run name another primary; returns it."""

        def agreed() -> bool:
            return {each.told() for each in self.sentinels if each.pid is not None}.isdisjoint({before.port})

        started = time.monotonic()
        wait_for(agreed, timeout_s, lambda: f"{time.monotonic() - started:.0f} s: {self.told()}")
        return self.primary


def _facts(told: Any) -> dict[str, Any]:
    """What SENTINEL MASTER answers, by name."""
    facts = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in facts.items()}


def _log_in_as(replicas: list[Server], name: str) -> None:
    """What they tell their primary; an empty one logs in as everybody does here."""
    for replica in replicas:
        for setting in ("masteruser", "masterauth"):
            replica.ask("CONFIG", "SET", setting, name)
