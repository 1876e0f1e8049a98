"""`rollstream top`: the fleet in a terminal, read again and again."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..observe.fleet import Fleet
from ..observe.read_fleet import FleetReader
from ..redis_io.connection import Connection
from .options import DEFAULT_REDIS, Partitions, Policy, reaches_redis
from .output import can_draw, console, exit_codes, print_lines
from .views.fit import Lines
from .views.frame import Down, Seen, frame
from .watch import Latest, watch

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""

_RECONNECT_S = 1.0
_ONCE_LINES = 200
"""Lines of one picture that goes to a file."""


@commands.command(epilog="Example: rollstream top --policy math-7b. For scripts: rollstream status --json --watch.")
@reaches_redis
def top(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two readings.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end; needs no terminal.")] = False,
) -> None:
    """Show the whole fleet in this terminal until q or Ctrl-C, which exit 0.

    The first line says in words how it is. Below: tokens per second over the
    last hour, jobs, workers (those that need a look come first: late or gone,
    paused and why, starting), batches under way with the time left, policy
    versions, how many versions the last hour's groups were behind, errors by
    code, dead letters.

    Long lists end with "and 12 more", and a narrow terminal shows fewer columns.
    While Redis is away, the last values stay and the first line says since when.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():
        if not once and not can_draw(console()):
            raise typer.BadParameter("this is no terminal: give --once for one picture, or see `status --watch`")
        asyncio.run(_run(redis, keys, interval, once=once))


async def _run(redis: RedisAccess, keys: Keys, interval: float, *, once: bool) -> None:
    connection = Connection(access=redis, reconnect_s=_RECONNECT_S, keys=keys, role=Role.OPERATOR)
    reader = FleetReader(connection=connection, keys=keys)

    def picture(latest: Latest[Fleet], down: Down | None, age_s: float, width: int, height: int) -> Lines:
        seen = Seen(policy=keys.policy, redis=connection.url, fleet=latest.value, fleet_age_s=age_s, down=down)
        return frame(seen, width, height, "q ends")

    try:
        first = await reader.read()
        if once:
            seen = Seen(policy=keys.policy, redis=connection.url, fleet=first)
            print_lines(lambda width: frame(seen, width, _lines_of_picture()))
        else:
            await watch(first, reader.read, picture, interval, console())
    finally:
        await connection.aclose()


def _lines_of_picture() -> int:
    out = console()
    return out.height if can_draw(out) or "LINES" in os.environ else _ONCE_LINES
