"""Publish policy versions and adapters from the command line, and show which workers serve them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.keys import check_adapter
from rollstream.schemas.printable import printable

from ..client import AsyncClient
from ..policies.errors import VersionTimeoutError
from ..policies.versions_stream import Announced, announced_versions
from ..policies.wait_for_version import Serving, Workers, read_serving
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Policy, RedisUrl
from .output import EXIT_TIMED_OUT, exit_codes, print_lines
from .views.versions import version_lines

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""

_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""Click's `UsageError`. Some releases of typer import click, others carry a copy of it."""

Wait = Annotated[bool, typer.Option("--wait", help="Return once the workers serve this version or a newer one.")]
WaitFor = Annotated[
    str, typer.Option("--workers", metavar="N|all", help="With --wait: how many workers; default: all live ones.")
]
Timeout = Annotated[float | None, typer.Option(min=0, help="With --wait: seconds to wait; then exit 4.")]


class _TakesVersion(TyperCommand):
    """Tells the bounds of VERSION for `-1` too, which click would call an unknown option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except _USAGE_ERROR as error:
            if not getattr(error, "option_name", "").removeprefix("-").isdecimal():
                raise
            raise typer.BadParameter(f"VERSION is an integer from 1 to {MAX_VERSION}", ctx) from None


@commands.command(
    cls=_TakesVersion,
    epilog="Example: rollstream publish 17 --checkpoint checkpoints/step-17 --policy math-7b --wait --timeout 120",
)
def publish(
    version: Annotated[
        int,
        typer.Argument(min=1, max=MAX_VERSION, metavar="VERSION", help="Above the newest; see `rollstream versions`."),
    ],
    policy: Policy,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder directly below the workers' --checkpoint-dir.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A LoRA adapter in PEFT's format; it travels through Redis.")
    ] = None,
    redis: RedisUrl = DEFAULT_REDIS,
    wait: Wait = False,
    workers: WaitFor = "all",
    timeout: Timeout = None,
) -> None:
    """Announce new weights as policy version VERSION; workers verify them and swap.

    Only the name of a checkpoint's folder and its digest are sent: workers find the folder below their own
    --checkpoint-dir, on a shared file system. Publishing the same again is a no-op.
    """
    if (checkpoint is None) == (adapter is None):
        raise typer.BadParameter("give --checkpoint DIR or --adapter DIR")
    if not wait and (timeout is not None or workers != "all"):
        raise typer.BadParameter("--workers and --timeout need --wait")
    wanted = _workers(workers)

    async def run() -> None:
        async with AsyncClient(redis, policy=policy) as client:
            announced = await client.publish_policy(version, checkpoint=checkpoint, adapter=adapter, progress=True)
            typer.echo(
                f"policy {policy} version {announced.version}: {announced.source} {announced.location} published"
            )
            if wait:
                await client.wait_for_version(version, wanted, timeout)
                typer.echo(f"version {version} is served")

    with exit_codes():
        try:
            asyncio.run(run())
        except VersionTimeoutError as error:
            typer.echo(f"rollstream: {printable(str(error))}", err=True)
            raise typer.Exit(EXIT_TIMED_OUT) from None


@commands.command(
    "publish-adapter", epilog="Example: rollstream publish-adapter math@17 adapters/math --policy math-7b"
)
def publish_adapter(
    adapter: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A name that no other adapter has.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="As PEFT's save_pretrained writes it.")],
    policy: Policy,
    redis: RedisUrl = DEFAULT_REDIS,
) -> None:
    """Ship a LoRA adapter to the workers through Redis and print its name, for `submit --adapter`."""
    with exit_codes():
        name, _, version = check_adapter(adapter).partition("@")

        async def run() -> str:
            async with AsyncClient(redis, policy=policy) as client:
                return await client.publish_adapter(name, int(version), folder, progress=True)

        typer.echo(asyncio.run(run()))


@commands.command(epilog="Example: rollstream versions --policy math-7b")
def versions(
    policy: Policy,
    redis: RedisUrl = DEFAULT_REDIS,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest to show.")] = 10,
    json_output: Json = False,
) -> None:
    """Show the newest policy versions and which workers serve them."""
    with exit_codes():
        keys = Keys(policy)

        async def call(connection: Connection) -> tuple[list[Announced], dict[str, Serving]]:
            return await announced_versions(connection, keys, limit), await read_serving(connection, keys)

        announced, serving = with_connection(redis, call)
    if json_output:
        typer.echo(
            json.dumps({"versions": [_row(one, serving) for one in announced], "workers": _workers_json(serving)})
        )
        return
    print_lines(lambda width: version_lines(policy, announced, serving, width))


def _workers(given: str) -> Workers:
    if given == "all":
        return "all"
    if given.isdecimal() and int(given) >= 1:
        return int(given)
    raise typer.BadParameter(f"--workers {given!r}: give a number from 1 on, or all")


def _row(one: Announced, serving: dict[str, Serving]) -> dict[str, Any]:
    told = {} if one.announcement is None else one.announcement.model_dump(exclude={"v", "kind"})
    told |= {"problem": one.problem} if one.problem else {}
    return {**told, "version": one.version, "served_by": _served_by(one.version, serving)}


def _workers_json(serving: dict[str, Serving]) -> dict[str, dict[str, Any]]:
    return {
        name: {"serves": one.version, "newest": one.newest, "refused": one.problem, "draining": one.draining}
        for name, one in serving.items()
    }


def _served_by(version: int, serving: dict[str, Serving]) -> list[str]:
    return [name for name, one in serving.items() if one.version == version]
