"""`rollstream status`: the queue and its workers, once or again and again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from rollstream.schemas import Keys
from rollstream.schemas.field_values import text_of
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..observe.fleet import FleetWorker, Presence
from ..observe.parts.rounds import Rounds
from ..observe.parts.workers import Workers
from ..operations.queue_state import QueueState, WorkerSeen, age, read_queue_state, status_json
from ..redis_io.connection import Connection
from .connection import with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import can_draw, console, exit_codes, print_lines
from .views.fit import Lines, one_line, wrapped
from .views.frame import Down
from .views.status import status_lines
from .watch import Latest, repeat, watch

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""

_EVERY_S = 2.0
_RECONNECT_S = 1.0


class _TakesWatch(TyperCommand):
    """`--watch` may stand without its number, which typer has no word for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_interval(args))


def with_interval(args: list[str]) -> list[str]:
    """The arguments with a number after `--watch`, if there is none."""
    found = list[str]()
    for word, following in zip(args, [*args, ""][1:], strict=True):
        found += [word, str(_EVERY_S)] if word == "--watch" and not _is_number(following) else [word]
    return found


def _is_number(word: str) -> bool:
    return word.removeprefix("-").replace(".", "", 1).isdecimal()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    queue: QueueState
    workers: tuple[FleetWorker, ...]

    def json(self) -> dict[str, Any]:
        """What `--json` prints: of the workers also whether their beats come."""
        found = status_json(self.queue)
        presence = {one.consumer: one.presence for one in self.workers}
        for row in found["workers"]:
            row["presence"] = presence[_shown(row["consumer"])]
        return found


@commands.command(cls=_TakesWatch, epilog="Example: rollstream status --policy math-7b --watch 5")
@reaches_redis
def status(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    every: Annotated[
        float | None,
        typer.Option(
            "--watch",
            metavar="[SECONDS]",
            min=0.1,
            max=3600,
            help="Show it again every so many seconds (2 if none are given) until q or Ctrl-C, which exit 0.",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Show how many jobs wait, how old the oldest is, and which workers are alive.

    A worker whose beats do not come any more is late, and gone once its report
    has expired.

    A narrow terminal leaves the least important columns out, or gives a worker
    several lines; a file or a pipe gets each row on one line. --json has
    everything as one object, with --watch on one line each time.

    `rollstream top` shows batches, rates and errors too.
    """
    keys = Keys(policy, partitions=partitions)
    with exit_codes():
        if every is None:
            _print(
                with_connection(redis, keys, lambda connection: _read(connection, keys, Workers(keys=keys))),
                json_output,
            )
        else:
            asyncio.run(_watch(redis, keys, every, json_output))


async def _read(connection: Connection, keys: Keys, workers: Workers) -> _Status:
    queue = await read_queue_state(connection, keys)
    found = await connection.call("read the workers", lambda client: Rounds(redis=client).run({"": workers.read()}))
    return _Status(queue=queue, workers=judged(found[""], queue.workers))


def judged(found: Sequence[FleetWorker], reporting: Iterable[WorkerSeen]) -> tuple[FleetWorker, ...]:
    """All workers, by name. One that reports counts as live if it was not `found`: this user may not rank workers."""
    names = {one.consumer for one in found}
    others = (
        FleetWorker(consumer=name, presence=Presence.LIVE, seen_s_ago=one.seen_s_ago, report=one.report)
        for one in reporting
        if (name := _shown(one.consumer)) not in names
    )
    return tuple(sorted((*found, *others), key=lambda one: one.consumer))


def _shown(name: str) -> str:
    return text_of(name.encode("utf-8", "backslashreplace"))


def _print(found: _Status, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.json()))
    else:
        print_lines(lambda width: status_lines(found.queue, found.workers, width))


async def _watch(redis: RedisAccess, keys: Keys, every: float, as_json: bool) -> None:
    connection, workers = (
        Connection(access=redis, reconnect_s=_RECONNECT_S, keys=keys, role=Role.OPERATOR),
        Workers(keys=keys),
    )

    async def read() -> _Status:
        return await _read(connection, keys, workers)

    try:
        out, first = console(), await read()
        if can_draw(out) and not as_json:
            await watch(first, read, _picture, every, out)
        else:
            await repeat(lambda found: _print(found, as_json), read, first, every)
    finally:
        await connection.aclose()


def _picture(latest: Latest[_Status], down: Down | None, age_s: float, width: int, height: int) -> Lines:
    lines = status_lines(latest.value.queue, latest.value.workers, width)
    if down is not None:
        told = f"Redis does not answer, for {age(down.for_s)}. What follows is from then. {down.why}"
        lines = [*wrapped(Text(told, style="bold red"), width)[:3], *lines]
    if len(lines) >= height:
        lines = [*lines[: height - 2], Text(f"and {len(lines) - height + 2} more lines", style="dim")]
    return [*lines, one_line(Text(f"q ends · read {age(age_s)} ago", style="dim"), width)]
