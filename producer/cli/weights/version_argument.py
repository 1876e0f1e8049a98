"""What the commands on a version share: the argument VERSION, and the wait until workers serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.printable import printable

from ...policies.errors import VersionTimeoutError
from ...policies.wait_for_version import Workers
from ..output import EXIT_TIMED_OUT, exit_codes

_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""Click's `UsageError`. Some releases of typer import click, others carry a copy of it."""

Wait = Annotated[bool, typer.Option("--wait", help="Return once the workers serve this version or a newer one.")]
WaitFor = Annotated[
    str, typer.Option("--workers", metavar="N|all", help="With --wait: how many workers; default: all live ones.")
]
WeightsPlace = Annotated[
    str | None,
    typer.Option(
        "--weights",
        envvar="ROLLSTREAM_WEIGHTS",
        metavar="DIR|redis|URL",
        help="The workers' weight store: a folder, redis for the policy's own, or a URL such as s3://bucket/run.",
    ),
]
Timeout = Annotated[float | None, typer.Option(min=0, help="With --wait: seconds to wait; then exit 4.")]


class TakesVersion(TyperCommand):
    """Tells the bounds of VERSION for `-1` too, which click would call an unknown option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, but for the error of a VERSION that looks like an option."""
        try:
            return super().parse_args(ctx, args)
        except _USAGE_ERROR as error:
            if not getattr(error, "option_name", "").removeprefix("-").isdecimal():
                raise
            raise typer.BadParameter(f"VERSION is an integer from 1 to {MAX_VERSION}", ctx) from None


def waited_workers(given: str, *, wait: bool, timeout: float | None) -> Workers:
    """The value of `--workers`. Raises `BadParameter` for it, and for options that need `--wait`."""
    if not wait and (timeout is not None or given != "all"):
        raise typer.BadParameter("--workers and --timeout need --wait")
    if given == "all":
        return "all"
    if given.isdecimal() and int(given) >= 1:
        return int(given)
    raise typer.BadParameter(f"--workers {given!r}: give a number from 1 on, or all")


def say_served(version: int) -> None:
    """Tell that enough workers serve the version."""
    typer.echo(f"version {version} is served")


def run(command: Coroutine[Any, Any, None]) -> None:
    """Run a command that may wait for a version; too late is exit code 4."""
    with exit_codes():
        try:
            asyncio.run(command)
        except VersionTimeoutError as error:
            typer.echo(f"rollstream: {printable(str(error))}", err=True)
            raise typer.Exit(EXIT_TIMED_OUT) from None
