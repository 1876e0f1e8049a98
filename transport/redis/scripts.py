"""The one loader of Lua scripts: a file beside the Python that calls it, sent by digest, or whole where Redis lacks it.

Each room has a module `scripts` with one function a script: typed arguments in, a typed reply out. Nobody else writes
lists of KEYS and ARGV.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Word = str | int | float | bytes
_FENCE = resources.files(__package__).joinpath("fence.lua")
_PARTS = resources.files(__package__).joinpath("parts.lua")
_RUN_FENCE = resources.files(__package__).joinpath("run_fence.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One Lua script."""

    name: str
    """Its file's."""
    text: str
    sha: str = field(init=False, repr=False)
    """The digest that Redis knows it by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def __call__(self, keys: Sequence[str], args: Sequence[Word]) -> Call:
        """A call with these KEYS and ARGV, to be sent."""
        return Call(script=self, keys=tuple(keys), args=tuple(args))


def load(
    package: str | None,
    name: str,
    *,
    with_fence: bool = False,
    with_parts: bool = False,
    with_run_fence: bool = False,
) -> Script:
    """The file `name` beside the modules of `package`.

    `with_fence`: it calls `fenced`, which `fence.lua` defines; `with_parts`: it calls what `parts.lua` defines;
    `with_run_fence`: it calls `taken`, which `run_fence.lua` defines.
    """
    wanted = (_FENCE, with_fence), (_PARTS, with_parts), (_RUN_FENCE, with_run_fence)
    shared = [file.read_text() for file, is_called in wanted if is_called]
    return Script(name=name, text="".join([*shared, resources.files(package or "").joinpath(name).read_text()]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a script, not sent yet. Sending it raises `RedisError`."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Word, ...]

    @property
    def by_digest(self) -> tuple[Word, ...]:
        """The command for a Redis that knows the script; another answers NOSCRIPT and runs nothing."""
        return "EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args

    @property
    def whole(self) -> tuple[Word, ...]:
        """The command for any Redis."""
        return "EVAL", self.script.text, len(self.keys), *self.keys, *self.args

    async def to(self, redis: Redis) -> Any:
        """The reply. The script travels only where Redis does not know it, which then keeps it."""
        client: Any = redis  # redis-py does not type `execute_command`
        try:
            return await client.execute_command(*self.by_digest)
        except NoScriptError:
            return await client.execute_command(*self.whole)

    async def whole_to(self, redis: Redis) -> Any:
        """The reply, always in one command: for calls that are rare, or whose arguments are large beside the script."""
        client: Any = redis  # redis-py does not type `execute_command`
        return await client.execute_command(*self.whole)


Send = Callable[[Call], Awaitable[Any]]
"""Sends a call, alone or among others, and returns the reply."""
