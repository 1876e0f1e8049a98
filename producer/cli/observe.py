"""Commands that tell how a fleet does: `rollstream exporter`, for Prometheus and KEDA, and `rollstream backlog`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable
from rollstream.transport.addresses import NO_SUCH_ADDRESS, is_of_host
from rollstream.transport.redis.access import RedisAccess

from ..observe.backlog import ASSUMED_TOKENS_PER_S, UNCOUNTED
from ..observe.fleet import Fleet
from ..observe.read_fleet import FleetReader
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import EXIT_ERROR, exit_codes, print_lines
from .servers.listening import cannot_start, port_number
from .views.backlog import backlog_lines
from .views.fit import wrapped

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""

AssumedTokens = Annotated[
    float,
    typer.Option(
        envvar="ROLLSTREAM_ASSUMED_TOKENS_PER_S",
        min=1e-3,
        max=1e9,
        help="Tokens a second of one worker, in the backlog, until a worker has measured it (a minute of work).",
    ),
]

DEFAULT_PORT = 9465
"""Beside 9464, which programs with metrics of their own often take."""
_EPILOG = (
    f"Example: rollstream exporter --policy math-7b --port {DEFAULT_PORT}, then curl -s "
    f"http://127.0.0.1:{DEFAULT_PORT}/metrics. It has no authentication: with --host 127.0.0.1 only this machine "
    "reaches it. deploy/prometheus/ has a configuration of Prometheus with alerts."
)


@commands.command(epilog="Example: rollstream backlog --policy math-7b --json | jq .worker_seconds")
@reaches_redis
def backlog(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    assumed_tokens_per_s: AssumedTokens = ASSUMED_TOKENS_PER_S,
    json_output: Json = False,
) -> None:
    """Show how many seconds of work are queued: what the workers there are take for all that has no answer yet.

    It is what the metric rollstream_backlog_seconds and /backlog of the exporter say: the tokens that will probably
    be generated, over the tokens a second that a worker was measured at, over the workers (one if there is none).
    Workers that start or drain do not count. With --json also worker_seconds, which is the same for one worker:
    over the seconds that you want to wait, it is the number of workers that you need.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():

        async def read(connection: Connection) -> Fleet:
            return await FleetReader(connection=connection, keys=keys, assumed_tokens_per_s=assumed_tokens_per_s).read()

        fleet = with_connection(redis, keys, read)
    found = fleet.backlog
    if found is None:
        typer.echo(f"rollstream: the backlog is unknown: {'; '.join(fleet.problems) or UNCOUNTED}", err=True)
        raise typer.Exit(EXIT_ERROR)
    if json_output:
        typer.echo(json.dumps(found.json(policy, paused=fleet.paused)))
    else:
        print_lines(lambda width: [line for told in backlog_lines(fleet, found) for line in wrapped(told, width)])


@commands.command(epilog=_EPILOG)
@reaches_redis
def exporter(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    port: Annotated[
        str, typer.Option(metavar="PORT|auto", help="Where Prometheus asks; auto takes a free one and prints it.")
    ] = str(DEFAULT_PORT),
    host: Annotated[str, typer.Option(help="Address to listen at; the default is every address.")] = "0.0.0.0",  # noqa: S104 - as exporters do
    assumed_tokens_per_s: AssumedTokens = ASSUMED_TOKENS_PER_S,
) -> None:
    """Tell Prometheus about a policy's queue: jobs, their age, the backlog, workers, versions, dead letters, Redis.

    One exporter for each policy; workers tell about themselves, see --metrics-port of rollstream-worker. Redis is read
    when Prometheus asks, at most once a second. While Redis does not answer, rollstream_redis_up is 0 and the other
    metrics are missing. Ctrl-C or SIGTERM ends it.

    At /backlog it says what `rollstream backlog --json` prints, for KEDA and other programs that start and stop
    workers, and how old that is (read_s_ago): within 3 s, and with status 503 while it is not known.
    """
    number = port_number(port)
    with exit_codes():
        try:
            from ..observe.exporter import export  # noqa: PLC0415 - an extra, which only this command needs
        except ModuleNotFoundError as error:
            raise cannot_start(f"the exporter needs {error.name}: pip install 'rollstream[observe]'") from None
        keys = Keys(policy, partitions=partitions)
        try:
            serving = export(redis, keys, host=host, port=number, say=_say, assumed_tokens_per_s=assumed_tokens_per_s)
            raise typer.Exit(asyncio.run(serving))
        except OSError as error:
            if is_of_host(error):
                raise cannot_start(f"--host {printable(host)}: {NO_SUCH_ADDRESS}") from None
            problem = f"--port {port}: {host}:{number} cannot be had: {error.strerror or error}"
            raise cannot_start(f"{problem}: give another port, or auto for a free one") from None


def _say(line: str) -> None:
    typer.echo(f"rollstream exporter: {line}", err=True)
