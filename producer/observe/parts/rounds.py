"""Several readers whose commands travel together: one pipeline a round.

A reader is a generator. It yields the commands that it wants next, gets Redis' clock and the answers, and returns what
it made of them, so that it can be read, and tested, without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from rollstream.schemas.errors import cut
from rollstream.schemas.printable import printable
from rollstream.transport.redis.faults import fault_of
from rollstream.transport.redis.scripts import Call

T = TypeVar("T")

Command: TypeAlias = Callable[[Any], object] | Call
"""Puts one command into a pipeline, such as `lambda pipe: pipe.xlen(key)`; or a script's call."""
Part: TypeAlias = Generator[Sequence[Command], tuple[float, list[Any]], T]
"""Gets the unix seconds of Redis' clock, and the answers in order: None where Redis refused the command."""
Note: TypeAlias = Callable[[str], None]
"""Takes what could not be read, in words."""

_MOST_PROBLEMS = 20
_NOTHING_THERE = ("ERR no such key", "no such key", "NOGROUP")


class Rounds:
    """The rounds of one reading."""

    def __init__(self, *, redis: Redis) -> None:
        self._redis = redis
        self.now = 0.0
        """Redis' clock in the first round."""
        self.commands = 0
        """How many were sent so far."""
        self.problems: list[str] = []
        """What Redis refused, each once, printable; the first twenty."""

    def note(self, problem: str) -> None:
        """Remember something that could not be read."""
        text = cut(printable(problem))
        if text not in self.problems and len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)

    async def run(self, parts: dict[str, Part[Any]]) -> dict[str, Any]:
        """What each part returns. Raises `RedisError` if Redis is away or serves nobody now."""
        results: dict[str, Any] = {}
        wanted = {name: commands for name in parts if (commands := _next(parts, name, results, None)) is not None}
        await self._ask_the_time()
        while wanted:
            answers = iter(await self._answers([(name, one) for name, asked in wanted.items() for one in asked]))
            given = {name: [next(answers) for _ in asked] for name, asked in wanted.items()}
            wanted = {
                name: commands
                for name, replies in given.items()
                if (commands := _next(parts, name, results, (self.now, replies))) is not None
            }
        return results

    async def _ask_the_time(self) -> None:
        seconds, micros = await self._redis.time()
        self.now = seconds + micros / 1e6
        self.commands += 1

    async def _answers(self, asked: Sequence[tuple[str, Command]]) -> list[Any]:
        replies = await self._sent([_words(command) for _, command in asked])
        unknown = {
            at: command
            for at, ((_, command), reply) in enumerate(zip(asked, replies, strict=True))
            if isinstance(reply, NoScriptError) and isinstance(command, Call)
        }
        whole = await self._sent([partial(_send, call.whole) for call in unknown.values()])
        for at, reply in zip(unknown, whole, strict=True):
            replies[at] = reply
        return [self._settled(name, reply) for (name, _), reply in zip(asked, replies, strict=True)]

    async def _sent(self, commands: Sequence[Callable[[Any], object]]) -> list[Any]:
        if not commands:
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                command(pipe)
            self.commands += len(commands)
            return list(await pipe.execute(raise_on_error=False))

    def _settled(self, name: str, reply: Any) -> Any:
        """The answer; None, with a note, for one that Redis refuses whenever it is asked."""
        if not isinstance(reply, RedisError):
            return reply
        if fault_of(reply).passes or isinstance(reply, exceptions.AuthenticationError):
            raise reply
        if not str(reply).startswith(_NOTHING_THERE):
            self.note(f"{name}: {reply}")
        return None


def rows(reply: Any) -> Iterable[Any]:
    """The rows of an answer; none if there is no answer."""
    return reply or ()


def _words(command: Command) -> Callable[[Any], object]:
    return partial(_send, command.by_digest) if isinstance(command, Call) else command


def _send(words: Sequence[Any], pipe: Any) -> object:
    return pipe.execute_command(*words)


def _next(
    parts: dict[str, Part[Any]], name: str, results: dict[str, Any], answer: tuple[float, list[Any]] | None
) -> Sequence[Command] | None:
    """The commands that the part wants next, or first without an `answer`; None once it has returned."""
    try:
        return next(parts[name]) if answer is None else parts[name].send(answer)
    except StopIteration as end:
        results[name] = end.value
        return None
