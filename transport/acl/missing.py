"""Which rights of its role a server refuses to this user. Asked by name, and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from redis.asyncio import Redis

from rollstream.schemas import Keys

from .commands import words
from .refused import ASKED_FIRST, is_denied, refused
from .table import Right, Role, rights_of

_SAMPLE = "rights"
_SHOWN = 8


async def missing_rights(
    redis: Redis, role: Role, keys: Keys, is_refusal: Callable[[object], bool] = is_denied
) -> Mapping[Right, str]:
    """Redis' refusal by right; empty if the user has all. All nodes of a cluster are asked. Raises `RedisError`."""
    rights = sorted(right for right in rights_of(role) if right not in ASKED_FIRST)
    return await refused(redis, {right: _sent(right, keys) for right in rights}, is_refusal)


def _sent(right: Right, keys: Keys) -> tuple[str, ...]:
    key = right.kind.sample(keys, _SAMPLE) if right.kind else ""
    return (*right.command.split(), *words(right.command, key))


def named(rights: Iterable[Right], policy: str) -> str:
    """Each command with the patterns of its keys, such as `XADD on rs:{p:*}:dead and rs:{p:*}:jobs`."""
    by_command: dict[str, list[str]] = {}
    for right in sorted(rights):
        by_command.setdefault(right.command, []).extend(right.kind.patterns(policy) if right.kind else ())
    told = [f"{name} on {' and '.join(keys)}" if keys else name for name, keys in by_command.items()]
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more commands" if len(told) > _SHOWN else "")


def remedy(role: Role, policy: str, user: str = "", *, is_old: bool = False) -> str:
    """The command that prints the line for this user; `is_old`: of a Redis 6.2."""
    told = ["rollstream acl --role", role.value, "--policy", policy]
    told += ["--user", user] if user else []
    told += ["--for-redis 6.2"] if is_old else []
    return f"`{' '.join(told)} --keep-password` prints all that it needs, for an administrator to send"
