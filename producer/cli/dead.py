"""`rollstream dead`: list, show, requeue and drop dead letters, the jobs that were given up on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.errors import shown
from rollstream.schemas.printable import printable
from rollstream.transport.redis.access import RedisAccess

from ..errors import RedisUnavailableError
from ..redis_io.connection import Connection
from ..replay.dead_letters import Listed, find, letters
from ..replay.dead_letters import drop as drop_letters
from ..replay.dead_letters import requeue as requeue_letter
from .connection import with_connection
from .help import Commands
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import EXIT_ERROR, exit_codes, print_lines, writable
from .traced import traced
from .views.letters import letter_json, letter_lines, listed_json, listed_lines

dead = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Dead letters: jobs that were given up on, kept with their bytes.",
    epilog="Example: rollstream dead ls --policy math-7b",
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="ENTRY|FILTER", help="Entries as `dead ls` shows them; with --all, a text to filter by."),
]
Every = Annotated[bool, typer.Option("--all", help="All dead letters, or all that contain FILTER.")]


@dead.command(epilog="Example: rollstream dead ls too_many_deliveries --policy math-7b")
@reaches_redis
def ls(
    policy: Policy,
    text: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="Text in the error, batch id, worker or entry id.")
    ] = "",
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    json_output: Json = False,
) -> None:
    """List dead letters, the oldest of each partition first."""
    with exit_codes():
        keys = Keys(policy, partitions=partitions)
        found = with_connection(redis, keys, lambda connection: _all(connection, keys, text))
    if json_output:
        typer.echo(json.dumps([listed_json(listed) for listed in found]))
    elif found:
        print_lines(lambda width: listed_lines(found, width))
    else:
        typer.echo("no dead letters" + (f" with {shown(text)}" if text else ""))


@dead.command(epilog="Example: rollstream dead show 1700000000000-0 --policy math-7b --payload job.msgpack")
@reaches_redis
def show(
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="As `dead ls` shows it.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    payload: Annotated[
        Path | None, typer.Option(dir_okay=False, callback=writable, help="Write the job's original bytes here.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Show one dead letter in full: error, traceback, history, the entry's fields and what its payload says."""
    with exit_codes():
        keys = Keys(policy, partitions=partitions)
        letter = with_connection(redis, keys, lambda connection: find(connection, keys, entry))
        if payload is not None:
            payload.write_bytes(letter.payload)
    if json_output:
        typer.echo(json.dumps(letter_json(letter)))
    else:
        print_lines(lambda width: letter_lines(letter, width))


@dead.command(epilog="Example: rollstream dead requeue --all 'worker-7' --policy math-7b")
@reaches_redis
def requeue(
    policy: Policy,
    names: Names = None,
    every: Every = False,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
) -> None:
    """Queue the jobs of dead letters again, each as a batch of its own, and drop the letters.

    Prints the new batch ids, a line a letter: BATCH.requeue-ENTRY. Safe to repeat at any point: no job is lost or
    queued twice. Letters without a readable job stay, and the exit code is 1.
    """
    _check_names(names, every)
    with exit_codes(), traced():
        keys = Keys(policy, partitions=partitions)

        async def call(connection: Connection) -> bool:
            refused = False
            chosen = [listed.name for listed in await _all(connection, keys, _filter(names))] if every else names or []
            for name in chosen:
                try:
                    typer.echo(await requeue_letter(connection, keys, await find(connection, keys, name)))
                except RedisUnavailableError:
                    raise
                except RollstreamError as error:  # only this letter is refused: it stays
                    refused = True
                    typer.echo(f"rollstream: {printable(str(error))}", err=True)
            return refused

        refused = with_connection(redis, keys, call)
    if refused:
        raise typer.Exit(EXIT_ERROR)


@dead.command(epilog="Example: rollstream dead drop 1700000000000-0 --policy math-7b --yes")
@reaches_redis
def drop(
    policy: Policy,
    names: Names = None,
    every: Every = False,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove dead letters and their bytes for good. Asks first."""
    _check_names(names, every)
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: give --yes")
    with exit_codes():
        keys = Keys(policy, partitions=partitions)

        async def select(connection: Connection) -> list[Listed]:
            if every:
                return await _all(connection, keys, _filter(names))
            return [(await find(connection, keys, name)).listed for name in names or []]

        found = with_connection(redis, keys, select)
        if found and not yes:
            typer.confirm(f"drop {len(found)} dead letters of policy {policy} for good?", abort=True)
        with_connection(redis, keys, lambda connection: drop_letters(connection, keys, found))
    typer.echo(f"{len(found)} dropped")


def _check_names(names: list[str] | None, every: bool) -> None:
    if every and len(names or []) > 1:
        raise typer.BadParameter("--all takes one FILTER at most")
    if not every and not names:
        raise typer.BadParameter("name the entries, or give --all")


def _filter(names: list[str] | None) -> str:
    return names[0] if names else ""


async def _all(connection: Connection, keys: Keys, text: str) -> list[Listed]:
    return [listed async for listed in letters(connection, keys, text)]
