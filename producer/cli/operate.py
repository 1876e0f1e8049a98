"""Commands for a running queue: cancel a batch, pause and resume, drain workers, ask what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..doctor.examine import examine
from ..doctor.finding import FAIL
from ..errors import ArgumentError
from ..operations.queue_state import QueueState, read_queue_state, waiting_jobs
from ..operations.requests import drain as drain_workers
from ..operations.requests import pause as pause_queue
from ..operations.requests import resume as resume_queue
from ..operations.requests import wait_until_drained
from ..redis_io.connection import Connection
from ..scores.handle import attached
from .connection import shared_command, with_connection
from .options import DEFAULT_REDIS, Json, Partitions, Policy, reaches_redis
from .output import EXIT_ERROR, EXIT_TIMED_OUT, exit_codes, print_lines
from .views.findings import finding_lines

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""

_MOST_AT_ONCE = 2**20
"""The most groups of one range."""


@commands.command(epilog="Example: rollstream cancel BATCH_ID --policy math-7b, or --groups 3,5-8 of it")
@reaches_redis
def cancel(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH_ID", help="What `rollstream submit` printed.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    some: Annotated[
        str | None,
        typer.Option("--groups", metavar="NUMBERS", help="Cut only these groups, counted from 0: 3,5-8."),
    ] = None,
    after: Annotated[
        float | None, typer.Option(help="Wait up to so many seconds for answers first, then cancel the rest.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Cancel the groups of a batch that have no answer yet, queued or running.

    Groups that have an answer keep it. The others are answered with an error of code "cancelled", so that
    callers that wait for the batch go on. Needs no worker; safe to repeat.

    With --groups only these are cut, with an error of code "not_needed", and the batch goes on with the others.
    """
    with exit_codes():
        chosen = None if some is None else numbers_in(some)

        async def call() -> tuple[int, int]:
            keys = Keys(policy, partitions=partitions)
            async with shared_command(redis, keys) as connection:
                handle = await attached(connection, keys, batch_id)
                return await handle.cancel(groups=chosen, after=after), handle.num_groups

        cancelled, groups = asyncio.run(call())
    if chosen is not None:
        asked = len(set(chosen))
        counts = {"groups": asked, "answered": asked - cancelled, "cut": cancelled}
        told = f"{cancelled} of {asked} groups cut, {asked - cancelled} had their answers"
        typer.echo(json.dumps({"batch_id": batch_id, **counts}) if json_output else told)
    elif json_output:
        counts = {"groups": groups, "answered": groups - cancelled, "cancelled": cancelled}
        typer.echo(json.dumps({"batch_id": batch_id, **counts}))
    elif cancelled:
        typer.echo(f"{cancelled} of {groups} groups cancelled, {groups - cancelled} had their answers")
    else:
        typer.echo(f"nothing to cancel: all {groups} groups were answered already")


_NUMBERS = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)


def numbers_in(text: str) -> list[int]:
    """Numbers and ranges of them, both ends included: `3,5-8`. Raises `ArgumentError`."""
    chosen: list[int] = []
    for part in text.split(","):
        found = _NUMBERS.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + _MOST_AT_ONCE:
            raise ArgumentError("--groups", part, "write numbers and ranges, the smaller number first: 3,5-8")
        chosen += range(first, last + 1)
    return chosen


@commands.command(epilog="Example: rollstream pause --policy math-7b")
@reaches_redis
def pause(policy: Policy, redis: RedisAccess = DEFAULT_REDIS, partitions: Partitions = 1) -> None:
    """Stop all workers from taking new jobs until `rollstream resume`.

    Running jobs are finished, batches can still be submitted, and workers stay up.
    """
    with exit_codes():
        keys = Keys(policy, partitions=partitions)

        async def call(connection: Connection) -> tuple[bool, QueueState]:
            return await pause_queue(connection, keys), await read_queue_state(connection, keys)

        changed, found = with_connection(redis, keys, call)
    waiting = waiting_jobs(found)
    how = "paused" if changed else "was paused already"
    jobs = "an unknown number of jobs" if waiting is None else f"{waiting} jobs"
    parked = sum(queue.parked_jobs for queue in found.queues)
    running = sum(queue.pending for queue in found.queues) - parked
    rest = f", {parked} parked" if parked else ""
    typer.echo(f"policy {policy} {how}: {jobs} waiting, {running} running{rest}")


@commands.command(epilog="Example: rollstream resume --policy math-7b")
@reaches_redis
def resume(policy: Policy, redis: RedisAccess = DEFAULT_REDIS, partitions: Partitions = 1) -> None:
    """Let workers take jobs again after `rollstream pause`."""
    with exit_codes():
        keys = Keys(policy, partitions=partitions)
        changed = with_connection(redis, keys, lambda connection: resume_queue(connection, keys))
    typer.echo(f"policy {policy} resumed" if changed else f"policy {policy} was not paused")


@commands.command(
    epilog="Example: rollstream drain --all --policy math-7b --wait. `rollstream status` names the workers."
)
@reaches_redis
def drain(
    policy: Policy,
    workers: Annotated[list[str] | None, typer.Argument(metavar="WORKER", help="Names of workers, or --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every live worker.")] = False,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    wait: Annotated[bool, typer.Option("--wait", help="Return once these workers are gone.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: seconds to wait; then exit 4.")] = None,
) -> None:
    """Ask workers to end as on SIGTERM: they finish what they can in their grace period and give the rest back."""
    if bool(workers) == every:
        raise typer.BadParameter("name the workers, or give --all")
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout needs --wait")
    with exit_codes():
        keys = Keys(policy, partitions=partitions)

        async def call(connection: Connection) -> bool:
            named = await drain_workers(connection, keys, None if every else workers)
            typer.echo("".join(f"{printable(name)} drains\n" for name in named) or "no live worker\n", nl=False)
            try:
                async with asyncio.timeout(timeout if wait else None):
                    if wait:
                        await wait_until_drained(connection, keys, named)
            except TimeoutError:
                return False
            return True

        in_time = with_connection(redis, keys, call)
    if not in_time:
        typer.echo(f"rollstream: not all are gone after {timeout:g} s; they go on draining", err=True)
        raise typer.Exit(EXIT_TIMED_OUT)


@commands.command(epilog="Example: rollstream doctor --policy math-7b. Exits 1 when something fails, 0 on warnings.")
@reaches_redis
def doctor(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    lease_s: Annotated[
        float | None, typer.Option(min=0.5, help="The workers' --lease-s; default: what they agreed on.")
    ] = None,
    role: Annotated[
        Role, typer.Option(help="Whose rights the user of this URL should have; see `rollstream acl`.")
    ] = Role.OPERATOR,
    json_output: Json = False,
) -> None:
    """Check Redis, the queue and its workers; tell what was seen and what to do about it. Changes nothing.

    It looks as an operator does. With another --role and the URL of that role's user it says which rights this user
    lacks, and how Redis is, and nothing of the queue.
    """
    with exit_codes():
        findings = asyncio.run(examine(redis, Keys(policy, partitions=partitions), lease_s, role))
    if json_output:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        print_lines(lambda width: finding_lines(findings, width))
    raise typer.Exit(EXIT_ERROR if any(finding.level == FAIL for finding in findings) else 0)
