"""Commands that show how a fleet does: `rollstream exporter`, for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable
from rollstream.transport.addresses import NO_SUCH_ADDRESS, is_of_host

from .listening import cannot_start, port_number
from .options import DEFAULT_REDIS, Partitions, Policy, RedisUrl
from .output import exit_codes

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""

DEFAULT_PORT = 9465
"""Beside 9464, which programs with metrics of their own often take."""
_EPILOG = (
    f"Example: rollstream exporter --policy math-7b --port {DEFAULT_PORT}, then curl -s "
    f"http://127.0.0.1:{DEFAULT_PORT}/metrics. It has no authentication: with --host 127.0.0.1 only this machine "
    "reaches it. deploy/prometheus/ has a configuration of Prometheus with alerts."
)


@commands.command(epilog=_EPILOG)
def exporter(
    policy: Policy,
    redis: RedisUrl = DEFAULT_REDIS,
    partitions: Partitions = 1,
    port: Annotated[
        str, typer.Option(metavar="PORT|auto", help="Where Prometheus asks; auto takes a free one and prints it.")
    ] = str(DEFAULT_PORT),
    host: Annotated[str, typer.Option(help="Address to listen at; the default is every address.")] = "0.0.0.0",  # noqa: S104 - as exporters do
) -> None:
    """Tell Prometheus about a policy's queue: jobs, their age, the backlog, workers, versions, dead letters, Redis.

    One exporter for each policy; workers tell about themselves, see --metrics-port of rollstream-worker. Redis is read
    when Prometheus asks, at most once a second. While Redis does not answer, rollstream_redis_up is 0 and the other
    metrics are missing. Ctrl-C or SIGTERM ends it.
    """
    number = port_number(port)
    with exit_codes():
        try:
            from ..observe.exporter import export  # noqa: PLC0415 - an extra, which only this command needs
        except ModuleNotFoundError as error:
            raise cannot_start(f"the exporter needs {error.name}: pip install 'rollstream[observe]'") from None
        keys = Keys(policy, partitions=partitions)
        try:
            raise typer.Exit(asyncio.run(export(redis, keys, host=host, port=number, say=_say)))
        except OSError as error:
            if is_of_host(error):
                raise cannot_start(f"--host {printable(host)}: {NO_SUCH_ADDRESS}") from None
            problem = f"--port {port}: {host}:{number} cannot be had: {error.strerror or error}"
            raise cannot_start(f"{problem}: give another port, or auto for a free one") from None


def _say(line: str) -> None:
    typer.echo(f"rollstream exporter: {line}", err=True)
