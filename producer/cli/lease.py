"""`rollstream lease`: show or change the lease that all workers of a policy share."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.lease import LONGEST_LEASE_S, SHORTEST_LEASE_S
from rollstream.transport.redis.access import RedisAccess

from ..operations.lease import LeaseSeen, lease_seen, set_lease
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import exit_codes, print_lines
from .views.fit import wrapped
from .views.headline import many

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""


@commands.command(
    epilog="To change it: rollstream drain --all --wait --policy math-7b, then rollstream lease --set 60 --policy "
    "math-7b, then start the workers with --lease-s 60."
)
@reaches_redis
def lease(
    policy: Policy,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--set", min=SHORTEST_LEASE_S, max=LONGEST_LEASE_S, help="New lease in seconds. No worker may be running."
        ),
    ] = None,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    json_output: Json = False,
) -> None:
    """Show or change the lease: the seconds after which a silent worker's jobs are taken over.

    All workers of a policy need the same lease, or they would take each other's jobs. The first worker writes its
    --lease-s to Redis, and a worker with another value does not start. To change it, drain the workers, set the new
    value, and start them with it.
    """
    with exit_codes():
        keys = Keys(policy, partitions=partitions)

        async def call(connection: Connection) -> LeaseSeen:
            if seconds is not None:
                await set_lease(connection, keys, seconds)
            return await lease_seen(connection, keys)

        seen = with_connection(redis, keys, call)
    if json_output:
        typer.echo(json.dumps(dataclasses.asdict(seen)))
    else:
        print_lines(lambda width: [line for told in _told(policy, seen) for line in wrapped(told, width, indent=2)])


def _told(policy: str, seen: LeaseSeen) -> list[str]:
    if seen.seconds is not None:
        lease = f"{seen.seconds:g} s"
    else:
        lease = seen.problem or "none yet, the first worker that starts sets it"
    lines = [f"policy {policy}: lease {lease}; {many(len(seen.workers), 'worker')}, late ones included"]
    others = seen.differing(seen.seconds)
    return lines + [f"worker {name} has {told or 'not said which'}" for name, told in sorted(others.items())]
