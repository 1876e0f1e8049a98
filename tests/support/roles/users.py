"""Servers on which each role has a user of its own, with the rights of the table or less."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import redis as blocking

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.key_kinds import KeyKind
from rollstream.transport.acl import Right, Role, Server, User, rights_of
from rollstream.transport.acl.commands import NOT_GIVEN, SCRIPTED, rule
from rollstream.transport.acl.setuser import line


class Users:
    """`admin` is a client that may do everything. Users are named as their roles."""

    def __init__(self, own: EmbeddedRedis, policy: str) -> None:
        self.url = own.url
        self.policy = policy
        self.admin: Any = blocking.Redis.from_url(own.url)
        version = str(self.admin.info("server")["redis_version"])
        self.server = Server.SIX if version.startswith("6.") else Server.SEVEN

    def allow(self, role: Role, *, without: Collection[Right] = ()) -> None:
        """Give a role its rights but those `without`."""
        user = User(name=role, role=role, policy=self.policy, secret=">pw")
        self.admin.execute_command(*line(user, self.server, rights_of(role) - set(without)))

    def allow_all(self) -> None:
        for role in Role:
            self.allow(role)
        self.admin.execute_command("ACL", "LOG", "RESET")

    def url_of(self, role: str) -> str:
        return self.url.replace("//", f"//{role}:pw@")

    def named_url_of(self, role: str) -> str:
        """The connections are named as the role too."""
        return f"{self.url_of(role)}?client_name={role}"

    def refused(self) -> set[tuple[str, str]]:
        """User and command, or key, of what was refused, without what no role is given."""
        not_given = {rule(name) for name in NOT_GIVEN} | {rule(name.split()[0]) for name in NOT_GIVEN}  # 6.2 says so
        told = {(one["username"], one["object"]) for one in self.admin.acl_log()}
        return {(user, what) for user, what in told if what not in not_given}

    def close(self) -> None:
        self.admin.close()


@contextlib.contextmanager
def on_each(servers: Iterable[EmbeddedRedis], policy: str) -> Iterator[list[Users]]:
    """The users of all roles on every one of these servers, inside the block."""
    made = [Users(server, policy) for server in servers]
    try:
        for users in made:
            users.allow_all()
        yield made
        for users in made:
            users.admin.acl_deluser(*Role)
    finally:
        for users in made:
            users.close()


def rights_in(pairs: set[tuple[str, str]], policy: str) -> set[Right]:
    """The rights that were used, by what was sent; both ways to send a script are one."""
    kinds = {pattern: kind for kind in KeyKind for pattern in kind.patterns(policy)}
    return {
        one_way(Right(command=name, kind=next((kinds[one] for one in kinds if fnmatchcase(key, one)), "")))
        for name, key in pairs
    }


def one_way(right: Right) -> Right:
    return Right(command=SCRIPTED[0], kind=right.kind) if right.command in SCRIPTED else right
