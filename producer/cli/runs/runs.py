"""`rollstream runs`: which trainers' runs there are, who has each, and how one is given up."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess

from ...redis_io.connection import Connection
from ...runs.read_runs import BatchLeft, RunSeen, forget_run, read_left, read_run, read_runs
from ..connection import with_connection
from ..options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from ..output import exit_codes, print_lines
from ..views.headline import many
from ..views.runs import run_json, run_lines, runs_lines

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""


@commands.command(epilog="Example: rollstream runs --run exp-42 --policy math-7b")
@reaches_redis
def runs(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    name: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Show this run in full.")] = None,
    forgotten: Annotated[
        str | None, typer.Option("--forget", metavar="NAME", help="Remove this run for good. Asks first.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --forget: do not ask.")] = False,
    json_output: Json = False,
) -> None:
    """List the runs of trainers, the one that wrote last first: who has each, what it has outstanding.

    A trainer begins a run with `client.run(NAME)`, and one that was killed goes on with it by
    opening it again; nothing here is needed for that. Redis keeps a run for its retention after its
    trainer's last write, 14 days unless the trainer says otherwise, and so long the results of
    batches that it has not consumed. --forget lets them expire as usual; the batches go on, and
    a trainer that still has the run is told at its next write.
    """
    keys = Keys(policy, partitions=partitions)
    if name is not None and forgotten is not None:
        raise typer.BadParameter("give --run or --forget")
    if yes and forgotten is None:
        raise typer.BadParameter("--yes is for --forget")
    with exit_codes():
        if forgotten is not None:
            _forget(redis, keys, forgotten, yes=yes)
        elif name is not None:
            _show(redis, keys, name, json_output=json_output)
        else:
            found = with_connection(
                redis, keys, lambda connection: connection.call("read the runs", lambda to: read_runs(to, keys))
            )
            if json_output:
                typer.echo(json.dumps([run_json(run) for run in found]))
            else:
                print_lines(lambda width: runs_lines(policy, found, width))


def _show(redis: RedisAccess, keys: Keys, name: str, *, json_output: bool) -> None:
    async def read(connection: Connection) -> tuple[RunSeen, list[BatchLeft]]:
        run = await read_run(connection, keys, name)
        return run, await read_left(connection, keys, run)

    run, left = with_connection(redis, keys, read)
    if json_output:
        typer.echo(json.dumps(run_json(run, left)))
    else:
        print_lines(lambda width: run_lines(keys.policy, run, left, width))


def _forget(redis: RedisAccess, keys: Keys, name: str, *, yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: give --yes")
    run = with_connection(redis, keys, lambda connection: read_run(connection, keys, name))
    holder = f", which {run.state.holder} has open" if run.state.is_held else ""
    outstanding = many(len(run.state.outstanding), "outstanding batch", "outstanding batches")
    if not yes:
        question = f"forget run {name} of policy {keys.policy}{holder}, with its cursor and {outstanding}?"
        typer.confirm(question, abort=True)
    with_connection(redis, keys, lambda connection: forget_run(connection, keys, run))
    typer.echo(f"run {name} forgotten, with {outstanding}")
