"""`rollstream activate`: let workers serve a version that was announced before."""

from __future__ import annotations

import getpass
import socket
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.transport.redis.access import RedisAccess

from ...policies.activation import activate as activate_version
from ...policies.wait_for_version import wait_for_version
from ...weights.publisher import WeightsPublisher
from ..connection import shared_command
from ..options import DEFAULT_REDIS, Policy, reaches_redis
from .version_argument import (
    TakesVersion,
    Timeout,
    Wait,
    WaitFor,
    WeightsPlace,
    run,
    say_served,
    waited_workers,
)

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""


@commands.command(cls=TakesVersion, epilog="Example: rollstream activate 17 --policy math-7b --wait --timeout 60")
@reaches_redis
def activate(
    version: Annotated[
        int,
        typer.Argument(
            min=1, max=MAX_VERSION, metavar="VERSION", help="Published with --activate by-hand or when-prepared."
        ),
    ],
    policy: Policy,
    weights: WeightsPlace = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who does it; default: you on this host.")] = None,
    redis: RedisAccess = DEFAULT_REDIS,
    wait: Wait = False,
    workers: WaitFor = "all",
    timeout: Timeout = None,
) -> None:
    """Let workers serve policy version VERSION, which was announced before.

    A worker that has prepared it (see `rollstream versions`) swaps at once; another takes no more jobs until it has.
    Activating the same again is a no-op. There is no way back to an older version but a new number: `rollstream publish
    VERSION --again OLDER`.

    With --weights the weight store is looked at first: a version of which it has lost a part is not activated (exit 1).
    """
    wanted = waited_workers(workers, wait=wait, timeout=timeout)

    async def ask() -> None:
        keys = Keys(policy)
        async with shared_command(redis, keys) as connection:
            publisher = WeightsPublisher.of(connection, keys, weights)
            store = None if publisher is None else publisher.store
            await activate_version(connection, keys, version, by or _operator(), store)
            typer.echo(f"policy {policy} version {version} is active")
            if wait:
                await wait_for_version(connection, keys, version, wanted, timeout)
                say_served(version)

    run(ask())


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:200]
