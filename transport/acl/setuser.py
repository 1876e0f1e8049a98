"""The `ACL SETUSER` line of a role: the least that a server of some version can be told to allow. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from rollstream.schemas.key_kinds import KeyKind

from .commands import COMMANDS, SCRIPTED, Access, rule
from .table import Right, Role, rights_of

LOCKED = "resetpass"
"""The rule in the place of a password where none is known: nobody can log in."""


class Server(StrEnum):
    """Which rules a server knows. `SEVEN` is 7 and later, and Valkey."""

    SIX = "6.2"
    SEVEN = "7"
    EIGHT = "8"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whose rights they are. `partitions` None: any number. `secret`: a rule such as `#<sha256>`; None keeps it."""

    name: str
    role: Role
    policy: str
    partitions: int | None = None
    secret: str | None = LOCKED


def setuser(user: User, server: Server) -> list[str]:
    """The words of the command. Sent again they change nothing, and they take away whatever else the user had."""
    return line(user, server, rights_of(user.role))


def line(user: User, server: Server, rights: Collection[Right]) -> list[str]:
    """The same with these rights in place of the role's."""
    if server is Server.SIX:
        return [*_head(user, server), *_patterns(user, rights, with_access=False), *_commands(rights)]
    plain = [right for right in rights if not right.kind]
    return [*_head(user, server), *_commands(plain), *_selectors(user, rights)]


def _head(user: User, server: Server) -> list[str]:
    named = ["ACL", "SETUSER", user.name]
    if user.secret is not None:
        return [*named, "reset", "on", user.secret, "resetchannels", "-@all"]
    selectors = [] if server is Server.SIX else ["clearselectors"]
    return [*named, "on", "resetkeys", "resetchannels", *selectors, "-@all"]


def _selectors(user: User, rights: Iterable[Right]) -> list[str]:
    """One for each set of commands that some kinds of keys share, and one for what scripts are given."""
    by_kind: dict[KeyKind, set[Right]] = {}
    scripted: set[Right] = set()
    for right in rights:
        if right.kind:
            (scripted if right.command in SCRIPTED else by_kind.setdefault(right.kind, set())).add(right)
    shared: dict[tuple[str, ...], set[Right]] = {}
    for of_kind in by_kind.values():
        shared.setdefault(tuple(_commands(of_kind)), set()).update(of_kind)
    groups = [*sorted(shared.items()), *([(tuple(_commands(scripted)), scripted)] if scripted else [])]
    return [f"({' '.join([*commands, *_patterns(user, of_group)])})" for commands, of_group in groups]


def _commands(rights: Iterable[Right]) -> list[str]:
    return [f"+{name}" for name in sorted({rule(right.command) for right in rights})]


def _patterns(user: User, rights: Iterable[Right], *, with_access: bool = True) -> list[str]:
    access: dict[KeyKind, Access] = {}
    for right in rights:
        if right.kind:
            access[right.kind] = access.get(right.kind, Access.NONE) | COMMANDS[right.command].access
    return [
        f"{_mark(access[kind]) if with_access else ''}~{pattern}"
        for kind in sorted(access)
        for pattern in kind.patterns(user.policy, user.partitions)
    ]


def _mark(access: Access) -> str:
    return {Access.BOTH: "", Access.WRITE: "%W", Access.READ: "%R", Access.NONE: "%R"}[access]
