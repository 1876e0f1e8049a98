"""`rollstream acl`: the rights that a user of Redis needs, for an administrator to send."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.acl import LOCKED, Role, Server, User, setuser
from rollstream.transport.redis.password_file import PasswordFileError, read_password

from .options import Json, Policy
from .output import exit_codes, say

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""

_EPILOG = """Examples:

rollstream acl --role worker --policy math-7b --password-file worker.password | redis-cli

rollstream acl --role operator --policy math-7b --user ann --keep-password

rollstream acl --role worker --policy math-7b --add-password-file new.password | redis-cli

rollstream doctor --policy math-7b --role worker --redis redis://math-7b-worker@host:6379
--redis-password-file worker.password
"""


@commands.command(epilog=_EPILOG)
def acl(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    role: Annotated[Role, typer.Option(help="What the user is for.")],
    policy: Policy,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Only the keys of so many partitions; default: of any number.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="Default: POLICY-ROLE.")] = "",
    for_redis: Annotated[
        Server, typer.Option(help="7 is for 7 and later and Valkey; 6.2 knows no selectors, so it allows more.")
    ] = Server.SEVEN,
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="It holds the password, of which only the SHA-256 is printed."),
    ] = None,
    keep_password: Annotated[
        bool, typer.Option("--keep-password", help="For a user that there is: change its rights alone.")
    ] = False,
    add_password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only add the password in it to those of a user that there is; see below."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Print the ACL SETUSER line that gives a user of Redis the least rights for a role and a policy.

    producer: what a trainer imports, and submit, results, score, cancel, publish, publish-adapter, activate;
    worker: rollstream-worker; operator: every other command, and the page; exporter: rollstream exporter, and
    status, top, batches and backlog. The line is complete: sent again it changes nothing, and it takes away what else
    the user had. Nothing is connected to: an administrator sends it to every node and replica, and keeps it by ACL SAVE
    or CONFIG REWRITE.

    Without a password file nobody can log in as the user until a password is added. --add-password-file prints a line
    that adds one and changes nothing else, so that the old and the new password are valid while programs change; then
    ACL SETUSER NAME !HASH takes the old one away, whose hash ACL GETUSER NAME tells.
    """
    given = [keep_password, password_file is not None, add_password_file is not None]
    if sum(given) > 1:
        raise typer.BadParameter("--keep-password, --password-file and --add-password-file exclude each other")
    if any(char.isspace() or not char.isprintable() for char in user):
        raise typer.BadParameter("--user: a name of Redis has no spaces and no control characters")
    with exit_codes():
        Keys(policy)
        named = User(
            name=user or f"{policy}-{role}",
            role=role,
            policy=policy,
            partitions=partitions,
            secret=None if keep_password else _secret(password_file),
        )
        words = setuser(named, for_redis)
        if add_password_file is not None:
            words = [*words[:3], _digest("--add-password-file", add_password_file)]
    if json_output:
        told = {"user": named.name, "role": role, "policy": policy, "for_redis": for_redis, "rules": words[3:]}
        typer.echo(json.dumps({**told, "command": " ".join(words)}))
    else:
        typer.echo(" ".join(words))
    if not any(given):
        say(f"nobody can log in as {named.name} before it has a password: give --password-file, or add one later")


def _secret(file: Path | None) -> str:
    """The rule that sets the password."""
    return LOCKED if file is None else _digest("--password-file", file)


def _digest(flag: str, file: Path) -> str:
    try:
        password = read_password(file)
    except PasswordFileError as error:
        raise typer.BadParameter(f"{flag} {file}: {error.problem}") from None
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
