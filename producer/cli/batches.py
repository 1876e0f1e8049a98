"""`rollstream batches`: which batches there are, how far each is, and how long it still takes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rollstream.schemas import Keys

from ..observe.fleet import Fleet
from ..observe.read_fleet import FleetReader
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, RedisUrl
from .output import exit_codes, print_lines
from .views.batches import UNDER_WAY, batch_json, batch_report, batch_state

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""


@commands.command(epilog="Example: rollstream batches --policy math-7b --all --limit 10")
def batches(
    policy: Policy,
    redis: RedisUrl = DEFAULT_REDIS,
    partitions: Partitions = 1,
    every: Annotated[bool, typer.Option("--all", help="Also those that are done or cancelled.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many of the newest to show.")] = 50,
    json_output: Json = False,
) -> None:
    """List the batches under way, newest first: groups that are done, age, and about how long the rest takes.

    The newest hundred are looked at; Redis keeps a batch until its results expire, a day after its last answer.
    `rollstream results BATCH_ID` has the answers, `rollstream cancel BATCH_ID` ends one.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():

        async def read(connection: Connection) -> Fleet:
            return await FleetReader(connection=connection, keys=keys).read()

        fleet = with_connection(redis, read)
    found = [batch for batch in fleet.batches if every or batch_state(batch) == UNDER_WAY][:limit]
    if json_output:
        typer.echo(json.dumps([batch_json(batch) for batch in found]))
    else:
        print_lines(lambda width: batch_report(fleet, found, width, every=every))
