"""`rollstream score`: how likely the tokens of a file's rows are under the weights that workers serve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from rollstream.transport.redis.access import RedisAccess

from ...client import AsyncClient
from ...scores.options import ScoreOptions
from ..options import (
    DEFAULT_REDIS,
    Adapter,
    MaxStaleness,
    MinPolicyVersion,
    Partitions,
    Policy,
    QueueDeadline,
    RunDeadline,
    Timeout,
    reaches_redis,
)
from ..output import exit_codes, follow, output, writable
from ..traced import traced
from .row_file import Row, read_row_file

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""

_EPILOG = "Example: echo '{\"input_ids\": [1, 2, 3]}' | rollstream score - --policy teacher-72b --top-logprobs 8"


@commands.command(epilog=_EPILOG)
@reaches_redis
def score(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="One row a line; - is stdin.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    top_logprobs: Annotated[int, typer.Option(metavar="K", help="Also the K likeliest ids at each token.")] = 0,
    adapter: Adapter = None,
    batch_id: Annotated[
        str | None, typer.Option(help="Default: a new one. Scoring the same batch again only reads its results.")
    ] = None,
    rows_per_job: Annotated[int, typer.Option(help="Rows that one worker takes at a time.")] = 32,
    queue_deadline_s: QueueDeadline = None,
    run_deadline_s: RunDeadline = None,
    min_policy_version: MinPolicyVersion = None,
    max_staleness: MaxStaleness = None,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, callback=writable, help="Write the scores to this file instead of stdout."),
    ] = None,
    timeout: Timeout = None,
) -> None:
    """Write the log-prob of each token of each row as JSONL, a line a row, in the
    order in which rows finish, under a progress bar.

    A row is {"input_ids": [1, 2, 3]}: all its tokens but the first are scored;
    with "first": 2 those from position 2 on. The log-probs are the model's own,
    at temperature 1. Any policy can be the teacher: name it with --policy.

    A line is {"batch_id": ..., "group": 0, "log_probs": [...], "version": 7},
    with --top-logprobs also "top_token_ids" and "top_log_probs", K for each
    token; "group" is the row's number in the file. For a row that failed it is
    {"batch_id": ..., "group": 0, "prompt_token_ids": the row's ids or null,
    "error": {"code": ..., "field": ..., "message": ...}}, and the exit code is
    3. After an interrupt or a timeout the batch goes on: its id is
    on stderr, for `rollstream results BATCH_ID --follow`.
    """
    with exit_codes(), traced():
        rows = read_row_file(file)
        options: ScoreOptions = {
            "first": [row.first for row in rows],
            "top_logprobs": top_logprobs,
            "adapter": adapter,
            "batch_id": batch_id,
            "rows_per_job": rows_per_job,
            "queue_deadline_s": queue_deadline_s,
            "run_deadline_s": run_deadline_s,
            "min_policy_version": min_policy_version,
            "max_staleness": max_staleness,
        }
        client = AsyncClient(redis, policy=policy, partitions=partitions)
        raise typer.Exit(asyncio.run(_write_scores(client, rows, options, out, timeout)))


async def _write_scores(
    client: AsyncClient, rows: list[Row], options: ScoreOptions, out: Path | None, timeout: float | None
) -> int:
    """Score the rows and write each as it finishes. Returns the exit code."""
    async with client:
        handle = await client.submit_scores([row.ids for row in rows], **options)
        typer.echo(f"batch {handle.batch_id}: {handle.num_groups} rows in {handle.batch.num_jobs} jobs", err=True)
        with output(out) as lines:
            return await follow(handle, lines, timeout)
