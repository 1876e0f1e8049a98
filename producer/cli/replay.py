"""`rollstream replay`: queue selected jobs again, or show what would be queued, and compare the results."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import EntryId
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..batches.read_answers import AnyAnswer
from ..progress import progress_bar
from ..redis_io.connection import Connection
from ..replay.criteria import ByBatch, ByEntry, ByLetter, ByTime, Selector, read_moment
from ..replay.plan import Replay
from ..replay.replay import Pace, Prepared, prepare, queue_replay
from ..replay.verify import expected_to_differ, stored_answers, verify
from .options import DEFAULT_REDIS, Partitions, Policy, reaches_redis
from .output import EXIT_SOME_FAILED, exit_codes, print_lines, say
from .replay_resume import ReplayOptions, Sent, explained
from .traced import traced
from .views.replays import (
    comparison_json,
    comparison_line,
    plan_json,
    plan_lines,
    replay_json,
    skipped_lines,
)

EPILOG = """Examples:

rollstream replay --policy math-7b --batch step-41 --dry-run

rollstream replay --policy math-7b --batch step-41 --verify

rollstream replay --policy math-7b --since 2h --until 30m --rate 20

rollstream replay --policy math-7b --dead too_many_deliveries
"""


@reaches_redis
def replay(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    policy: Policy,
    text: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="With --dead: part of the error, batch, worker or entry id."),
    ] = None,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="All jobs of this batch.")] = None,
    job: Annotated[
        str | None, typer.Option(metavar="ENTRY", help="The job of one entry: 1700000000000-0, 3/1700000000000-0.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Jobs queued since then: ISO 8601, or 90s, 30m, 2h, 1d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="With --since or --dead; default: now.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters: all, or those with FILTER.")] = False,
    incomplete: Annotated[
        bool, typer.Option("--partial", help="With --batch: also if some of its jobs are gone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be queued and write nothing.")] = False,
    rate: Annotated[float | None, typer.Option(metavar="JOBS_PER_S", min=0.001, help="Queue no faster.")] = None,
    batch_id: Annotated[
        str | None, typer.Option(metavar="NEW", help="The new batch's id; the same again queues what is missing.")
    ] = None,
    attempt: Annotated[
        str | None, typer.Option("--continue", metavar="ATTEMPT", help="Go on with a replay that ended half-way.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--verify", help="Wait, and compare every token or score with the original's stored results."),
    ] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --verify: seconds to wait; then exit 4.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Queue jobs again, finished or dead, as new batches.

    The originals and their results stay as they are. Finished jobs can be
    replayed until the workers trim them (--retention-s, one day). Jobs that wait
    or run are queued a second time by --batch and --job; --since leaves out
    batches that have such jobs in its span.

    The selected jobs of one batch become one new batch with the same prompts,
    config and seeds: a seeded batch gives the same tokens again, also when only
    some of its jobs are replayed. It is sampled by the policy version that is
    served now: min_policy_version and max_staleness of the original are
    dropped, and --verify counts apart from those that differ: groups that
    another version sampled, and completions that a later delivery went on with
    (--keep-partials), which is another draw unless they are greedy. Rows to
    score are compared as closely as two engines agree, by the dtype of the
    workers. Its id is <original>.replay-<6 hex>, new each time, or --batch-id.
    A replay is a batch like any other: it can be replayed, and --since finds
    it too.

    The new batch ids go to stdout, one a line. A replay that ended half-way
    says how to queue the rest.

    Exit codes: 0 good, with --verify: identical; 3 something differs or is not
    comparable, 4 no results in time, 1 error, 2 usage.
    """
    if sum((batch is not None, job is not None, since is not None, dead)) != 1:
        raise typer.BadParameter("choose one of --batch, --job, --since and --dead")
    _need(text is None or dead, "FILTER needs --dead")
    _need(until is None or since is not None or dead, "--until needs --since or --dead")
    _need(not incomplete or batch is not None, "--partial needs --batch")
    _need(timeout is None or compare, "--timeout needs --verify")
    _need(not (dry_run and compare), "--dry-run queues nothing that --verify could compare")
    _need(not (batch_id and attempt), "--continue is for default ids; repeat --batch-id instead")
    entry = None if job is None else _entry(job, partitions)
    _need(rate is None or math.isfinite(rate), "--rate must be finite")
    _moments(since, until, 0)

    def selector(now_ms: int) -> Selector:
        if batch is not None:
            return ByBatch(batch_id=batch, partial=incomplete)
        if entry is not None:
            return entry
        first, last = _moments(since, until, now_ms)
        return ByLetter(text=text or "", until_ms=last) if dead else ByTime(since_ms=first, until_ms=last)

    how = ReplayOptions(
        batch_id=batch_id,
        attempt=attempt or secrets.token_hex(4),
        dry_run=dry_run,
        rate=rate,
        verify=compare,
        timeout=timeout,
        json=json_output,
    )
    with exit_codes(), traced():
        raise typer.Exit(asyncio.run(_run(redis, Keys(policy, partitions=partitions), selector, how)))


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise typer.BadParameter(problem)


def _entry(name: str, partitions: int) -> ByEntry:
    where, _, entry_id = name.rpartition("/")
    _need(EntryId.is_one(entry_id), f"--job: {name!r} is no entry id such as 1700000000000-0")
    if not where:
        return ByEntry(entry_id=entry_id)
    _need(where in map(str, range(partitions)), f"--job: there is no partition {where!r}, see --partitions")
    return ByEntry(entry_id=entry_id, partition=int(where))


def _moments(since: str | None, until: str | None, now_ms: int) -> tuple[int, int]:
    """Unix milliseconds. The span ends before now, so no new job can enter it and a repeat selects the same jobs."""
    latest = max(0, now_ms - 1)
    try:
        first = 0 if since is None else read_moment(since, now_ms)
        last = latest if until is None else min(latest, read_moment(until, now_ms))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _need(now_ms == 0 or first <= last, "--since must be before --until, and in the past by Redis' clock")
    return first, last


async def _run(redis: RedisAccess, keys: Keys, selector_at: Callable[[int], Selector], how: ReplayOptions) -> int:
    async with _connected(redis, keys) as connection:
        seconds, micros = await connection.call("read the time", lambda client: client.time())
        selector = selector_at(seconds * 1000 + micros // 1000)
        with progress_bar("reading", None, "jobs") as seen:
            prepared = await prepare(connection, keys, selector, how.named, seen)
        if how.batch_id is not None and len(prepared.replays) > 1:
            raise typer.BadParameter(f"--batch-id names one batch, {len(prepared.replays)} are selected")
        if how.dry_run:
            _show(prepared, how.json)
            return 0
        _tell_left_out(prepared)
        stored = [await _stored(connection, keys, replay) for replay in prepared.replays] if how.verify else []
        with explained(keys, selector, how) as sent:
            queued = await _queue(connection, keys, prepared, how, sent)
        return await _verify(connection, keys, queued, stored, how) if how.verify else 0


@asynccontextmanager
async def _connected(redis: RedisAccess, keys: Keys) -> AsyncIterator[Connection]:
    connection = Connection(access=redis, reconnect_s=60, keys=keys, role=Role.OPERATOR)
    try:
        yield connection
    finally:
        await connection.aclose()


def _show(prepared: Prepared, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plan_json(prepared)))
        return
    print_lines(lambda width: plan_lines(prepared, width))
    _tell_left_out(prepared)
    typer.echo("nothing was queued (--dry-run)", err=True)


def _tell_left_out(prepared: Prepared) -> None:
    for line in skipped_lines(prepared.skipped):
        say(line)
    if prepared.unfinished:
        say(f"{prepared.unfinished} of the jobs still wait or run: they are done a second time")


async def _stored(connection: Connection, keys: Keys, replay: Replay) -> dict[int, AnyAnswer]:
    if expected_to_differ(replay):
        warning = "is sampled without a seed at a temperature above 0: its replay is expected to differ"
        say(f"{replay.original_id} {warning}")
    return await stored_answers(connection, keys, replay)


async def _queue(
    connection: Connection, keys: Keys, prepared: Prepared, how: ReplayOptions, sent: Sent
) -> list[Replay]:
    """Queue all batches, and print those that were queued whole, even if an error ended it half-way."""
    pace, queued, before = Pace(how.rate), list[Replay](), 0
    try:
        with progress_bar("queueing", sum(replay.batch.num_jobs for replay in prepared.replays), "jobs") as show:
            for replay in prepared.replays:
                queued.append(await queue_replay(connection, keys, replay, pace, partial(_note, sent, show, before)))
                before += replay.batch.num_jobs
    finally:
        for replay in queued:
            typer.echo(f"{replay.batch.num_groups} groups queued in {replay.batch.num_jobs} jobs", err=True)
            if not (how.json and how.verify):  # with both, `_verify` prints one line that has the comparison too
                typer.echo(json.dumps(replay_json(replay)) if how.json else replay.batch.batch_id)
    return queued


def _note(sent: Sent, show: Callable[[int], None], before: int, done: int) -> None:
    sent.any, sent.jobs = True, before + done
    show(sent.jobs)


async def _verify(
    connection: Connection, keys: Keys, queued: list[Replay], stored: list[dict[int, AnyAnswer]], how: ReplayOptions
) -> int:
    """Compare each batch with its original. Returns the exit code. Raises `ResultTimeoutError`."""
    loop = asyncio.get_running_loop()
    end = None if how.timeout is None else loop.time() + how.timeout
    code = 0
    for replay, answers in zip(queued, stored, strict=True):
        left = None if end is None else max(0.0, end - loop.time())
        comparison = await verify(connection, keys, replay, answers, left)
        code = code if comparison.identical else EXIT_SOME_FAILED
        say(comparison_line(replay, comparison))
        if how.json:
            typer.echo(json.dumps({**replay_json(replay), "verify": comparison_json(comparison)}))
    return code
