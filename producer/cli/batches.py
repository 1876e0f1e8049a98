"""`rollstream batches`: which batches there are, how far each is, and how long it still takes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess

from ..observe.fleet import Fleet
from ..observe.read_fleet import FleetReader
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import exit_codes, print_lines
from .views.batches import UNDER_WAY, batch_json, batch_report, batch_state

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""

_PAGE, _MOST_PAGES = 100, 20


@commands.command(epilog="Example: rollstream batches --policy math-7b --all --limit 10")
@reaches_redis
def batches(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    every: Annotated[bool, typer.Option("--all", help="Also those that are done or cancelled.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many of the newest to show.")] = 50,
    json_output: Json = False,
) -> None:
    """List the batches under way, newest first: how many groups are done, its age,
    and about how long the rest takes.

    Long names are shortened to fit the terminal; a file or a pipe gets all of them.
    Redis keeps a batch until its results expire, a day after its last answer.
    Where it keeps thousands, the oldest may be missing here. `rollstream results
    BATCH_ID` has the answers, `rollstream cancel BATCH_ID` ends a batch.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():
        fleet = with_connection(redis, keys, lambda connection: _read(connection, keys))
    found = [batch for batch in fleet.batches if every or batch_state(batch) == UNDER_WAY][:limit]
    if json_output:
        typer.echo(json.dumps([batch_json(batch) for batch in found]))
    else:
        print_lines(lambda width: batch_report(fleet, found, width, every=every))


async def _read(connection: Connection, keys: Keys) -> Fleet:
    """A reading looks at the newest batches and at one page of the others, so that older ones need several."""
    reader = FleetReader(connection=connection, keys=keys)
    fleet = await reader.read()
    pages = fleet.num_batches // _PAGE + (keys.partitions if keys.partitions > 1 else 0)
    for _ in range(min(_MOST_PAGES, pages)):
        fleet = await reader.read()
    return fleet
