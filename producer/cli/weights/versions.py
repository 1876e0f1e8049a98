"""`rollstream versions`: what was published, and which workers serve it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess

from ...policies.activation import newest_version
from ...policies.versions_stream import Announced, announced_versions
from ...policies.wait_for_version import Serving, read_serving
from ...redis_io.connection import Connection
from ..connection import with_connection
from ..options import DEFAULT_REDIS, Json, Policy, reaches_redis
from ..output import exit_codes, print_lines
from ..views.versions import version_lines

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""


@commands.command(epilog="Example: rollstream versions --policy math-7b")
@reaches_redis
def versions(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest to show.")] = 10,
    json_output: Json = False,
) -> None:
    """Show the newest policy versions, which is to be served, and which workers serve them or have prepared them."""
    with exit_codes():
        keys = Keys(policy)

        async def call(connection: Connection) -> tuple[list[Announced], dict[str, Serving], int]:
            announced = await announced_versions(connection, keys, limit)
            return announced, await read_serving(connection, keys), await newest_version(connection, keys)

        announced, serving, active = with_connection(redis, keys, call)
    if json_output:
        rows = [_row(one, serving, active) for one in announced]
        typer.echo(json.dumps({"versions": rows, "newest": active, "workers": _workers_json(serving)}))
        return
    print_lines(lambda width: version_lines(policy, announced, serving, active, width))


def _row(one: Announced, serving: dict[str, Serving], active: int) -> dict[str, Any]:
    told: dict[str, Any] = {"probe": None}
    if one.announcement is not None:
        told |= one.announcement.model_dump(exclude={"v", "kind", "probe"})
        if probe := one.announcement.probe:
            told["probe"] = {"rows": len(probe.rows), "tokens": probe.token_ids.shape[0]}
    told |= {"problem": one.problem} if one.problem else {}
    served_by = [name for name, worker in serving.items() if worker.version == one.version]
    prepared_by = [name for name, worker in serving.items() if worker.version < one.version <= worker.prepared]
    told |= {"version": one.version, "active": one.version <= active and (one.version == active or one.is_at_once)}
    return {**told, "served_by": served_by, "prepared_by": prepared_by}


def _workers_json(serving: dict[str, Serving]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "serves": one.version,
            "newest": one.newest,
            "refused": one.problem,
            "draining": one.draining,
            "prepared": one.prepared,
            "proof": one.proof,
        }
        for name, one in serving.items()
    }
