"""What each role really sends, by MONITOR: commands, those of scripts too, and the keys that they name."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Any, Self

import redis as blocking

CONTAINERS = frozenset({"ACL", "CLIENT", "CLUSTER", "CONFIG", "MEMORY", "XGROUP", "XINFO"})
"""Commands whose first argument is a part of their name."""
_LINE = re.compile(r"^[\d.]+ \[\d+ (?P<who>[^\]]*)\] (?P<words>.*)$", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BEGINS = {"AUTH", "HELLO"}
"""What a new connection sends first, also from the port that another had. Nobody needs a right to it."""
_END = "the end of what is looked at"


class Sent:
    """Everything that is sent within the block. A connection tells its role by its name (`?client_name=`)."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with blocking.Redis.from_url(self._url) as client:
            client.echo(_END)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _listen(self) -> None:
        with blocking.Redis.from_url(self._url, socket_timeout=None) as client:
            connection: Any = client.connection_pool.get_connection()
            connection.send_command("MONITOR")
            connection.read_response()
            self._ready.set()
            while _END not in (line := connection.read_response(disable_decoding=True).decode("latin-1")):
                self._lines.append(line)

    def pairs(self) -> dict[str, set[tuple[str, str]]]:
        """By the name of the connection: each command with each key that it named, or with ''."""
        names: dict[str, str] = {}
        found: dict[str, set[tuple[str, str]]] = {}
        caller = ""
        for line in self._lines:
            told = _LINE.match(line)
            if told is None:
                continue
            who, words = told["who"], _words(told["words"])
            if words[0].upper() in _BEGINS:
                names.pop(who, None)
                continue
            if words[:2] == ["CLIENT", "SETNAME"]:
                names[who] = words[2]
            if who != "lua":
                caller = names.get(who, "")
            command, arguments = _named(words)
            keys = _keys(command, arguments)
            found.setdefault(caller, set()).update((command, key) for key in keys or [""])
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _named(words: list[str]) -> tuple[str, list[str]]:
    name = words[0].upper()
    if name in CONTAINERS and len(words) > 1:
        return f"{name} {words[1].upper()}", words[2:]
    return name, words[1:]


def _keys(command: str, arguments: list[str]) -> list[str]:
    if command in {"EVAL", "EVALSHA"}:
        return arguments[2 : 2 + int(arguments[1])]
    if command in {"XREAD", "XREADGROUP"}:
        after = arguments[[word.upper() for word in arguments].index("STREAMS") + 1 :]
        return after[: len(after) // 2]
    if command in {"EXISTS", "DEL", "UNLINK"}:
        return arguments
    return arguments[:1] if arguments and arguments[0].startswith("rs:") else []
