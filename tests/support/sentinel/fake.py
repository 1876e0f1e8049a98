"""Sentinels that say what a test wants: no real one lies, or answers what no Sentinel does."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from tests.support.sentinel.servers import SERVICE


def bulk(*words: str | int) -> bytes:
    """A list of texts, as RESP 2 writes it."""
    texts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)


def names(port: int, *, host: str = "127.0.0.1", epoch: int = 1, flags: str = "master") -> bytes:
    """The reply of a Sentinel that names this primary."""
    facts = ("name", SERVICE, "ip", host, "port", port, "flags", flags, "config-epoch", epoch)
    return bulk(*facts)


class FakeSentinel:
    """Answers SENTINEL MASTER with `reply`, MASTERS with `masters`, and all else with OK."""

    def __init__(self, reply: bytes, masters: bytes = b"*0\r\n") -> None:
        self.reply = reply
        self.masters = masters
        self.heard: list[list[bytes]] = []
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while command := _command(self.rfile):
                    fake.heard.append(command)
                    self.wfile.write(fake._answer(command))

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_given: Any) -> None:
                """A client that hangs up is no error."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    def _answer(self, command: list[bytes]) -> bytes:
        words = [word.upper() for word in command[:2]]
        if words == [b"SENTINEL", b"MASTERS"]:
            return self.masters
        return self.reply if words == [b"SENTINEL", b"MASTER"] else b"+OK\r\n"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fakes(*replies: bytes) -> Iterator[tuple[str, list[FakeSentinel]]]:
    """One Sentinel for each reply, and the URL of all."""
    with ExitStack() as running:
        made = [running.enter_context(FakeSentinel(reply)) for reply in replies]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in made)
        yield f"redis+sentinel://{hosts}/{SERVICE}", made


def _command(stream: Any) -> list[bytes]:
    """The next command; nothing once the client has hung up."""
    head = stream.readline()
    if not head.startswith(b"*"):
        return []
    return [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
