"""Which rights of its role a server refuses to this user. Asked by name, and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys

from ..redis.cluster import nodes_of
from .commands import words
from .refused import ASKED_FIRST, is_denied, refused
from .table import Right, Role, rights_of

_SAMPLE = "rights"
_SHOWN = 8
_FOR_OLD = "--for-redis 6.2"
_VERSION = b"version"
"""Its name in the answer to HELLO."""
DEFAULT_USER = "default"
"""Who a URL without a user logs in as."""


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


async def is_old(redis: Redis) -> bool | None:
    """Whether a server is a 6.2, which takes other rules; None if none of them says so."""
    try:
        replies = [await node.execute_command("HELLO") for node in (await nodes_of(redis)).values()]  # type: ignore[no-untyped-call]  # redis-py
    except RedisError:  # everybody may send it, but a proxy may not know it
        return None
    return any(version.startswith(b"6.") for version in map(_version, replies)) if replies else None


def _version(reply: Any) -> bytes:
    pairs = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=False))
    return bytes(pairs.get(_VERSION, b""))


def remedy(role: Role, policy: str, user: str, *, is_old: bool | None) -> str:
    """What gives a user that is known to be for this role its rights. `is_old`: see the function of that name."""
    printed = f"rollstream acl --role {role} --policy {policy} --user {user or DEFAULT_USER}"
    beside = _beside(is_old)
    return f"`{printed}{_flag(is_old)} --keep-password` prints all that it needs, for an administrator to send{beside}"


def other_login(role: Role, policy: str, *, is_old: bool | None) -> str:
    """The same for a user that may be for another role, which a line for this role would take from it."""
    printed = f"`rollstream acl --role {role} --policy {policy}{_flag(is_old)}` makes one{_beside(is_old)}"
    return f"log in as a user for the role {role} ({printed}), or have just these rights added"


def _flag(is_old: bool | None) -> str:
    return f" {_FOR_OLD}" if is_old else ""


def _beside(is_old: bool | None) -> str:
    return f"; on Redis 6.2 with {_FOR_OLD}" if is_old is None else ""
