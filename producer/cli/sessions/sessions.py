"""`rollstream sessions`: which conversations there are, and how far each turn of one is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess

from ...sessions.read_sessions import read_session, read_sessions
from ..connection import with_connection
from ..options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from ..output import exit_codes, print_lines
from ..views.sessions import session_json, session_lines, sessions_lines

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""


@commands.command(epilog="Example: rollstream sessions game-7 --policy math-7b")
@reaches_redis
def sessions(
    policy: Policy,
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show the turns of this session.")] = None,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    json_output: Json = False,
) -> None:
    """List conversations, the one with the newest turn first, or the turns of one.

    A gateway or a trainer begins a session with `client.session(ID)`. Redis keeps it, and the
    results of its turns, for its retention after its last turn, a day unless its submitter says
    otherwise. `rollstream results BATCH` has what was sampled in a turn.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():
        if name is not None:
            seen, turns = with_connection(redis, keys, lambda connection: read_session(connection, keys, name))
            if json_output:
                typer.echo(json.dumps(session_json(seen, turns)))
            else:
                print_lines(lambda width: session_lines(policy, seen, turns, width))
            return
        found = with_connection(
            redis, keys, lambda connection: connection.call("read the sessions", lambda to: read_sessions(to, keys))
        )
        if json_output:
            typer.echo(json.dumps([session_json(one) for one in found]))
        else:
            print_lines(lambda width: sessions_lines(policy, found, width))
