"""The operator's command line: results on stdout, everything for people on stderr, an exit code for scripts."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.version import __version__

from ..client import AsyncClient
from ..scores.handle import attached
from .acl import commands as allowing
from .batches import commands as listing
from .config_flags import read_config
from .connection import shared_command
from .dead import dead
from .golden import golden
from .help import Commands
from .jsonl import expected_of, read_prompt_file
from .lease import commands as leasing
from .observe import commands as observing
from .operate import commands as operating
from .options import (
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
from .output import exit_codes, follow, output, writable, write_unfinished
from .replay import EPILOG as REPLAY_EPILOG
from .replay import replay
from .runs.runs import commands as listing_runs
from .scores.score import commands as scoring
from .servers.gateway import EPILOG as GATEWAY_EPILOG
from .servers.gateway import gateway
from .servers.web import EPILOG as WEB_EPILOG
from .servers.web import web
from .sessions.sessions import commands as listing_sessions
from .shell.completion import commands as completing
from .status import commands as showing
from .top import commands as watching
from .traced import traced
from .weights.activate import commands as activating
from .weights.probe import commands as probing
from .weights.publish import commands as publishing
from .weights.versions import commands as listing_versions

Out = Annotated[
    Path | None,
    typer.Option(dir_okay=False, callback=writable, help="Write the results to this file instead of stdout."),
]

app = typer.Typer(
    name="rollstream",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut names at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good, 1 error, 2 usage, 3 some groups failed, 4 timed out, 5 not finished, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rollstream {__version__}")
        raise typer.Exit


@app.callback()
def rollstream(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prompts in, padded rollouts out, over Redis streams.

    Start with `rollstream demo`. Then start a worker, and:

    rollstream submit prompts.jsonl --policy math-7b --max-new-tokens 64 --wait --out results.jsonl
    """


@app.command()
def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep the demo's files in this folder.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show real vLLM completions through a Redis of its own, on the CPU, and leave nothing behind."""
    with exit_codes():
        from ..demo.demo import run  # noqa: PLC0415 - only this command needs it

        raise typer.Exit(run(keep=keep, json_output=json_output))


@app.command(
    epilog="Example: echo '{\"prompt_token_ids\": [1, 2, 3]}' | rollstream submit - --policy math-7b "
    "--max-new-tokens 16 --wait"
)
@reaches_redis
def submit(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.jsonl", help="One prompt a line; - is stdin."),
    ],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens a completion may have. Required somewhere.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=JSON", help="Any generation config field: --set temperature=0.7. Repeatable."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Generation config as a JSON object; flags win over it.")] = None,
    adapter: Adapter = None,
    batch_id: Annotated[
        str | None, typer.Option(help="Default: a new one. Submitting the same batch again is a no-op.")
    ] = None,
    prompts_per_job: Annotated[int, typer.Option(help="Prompts that one worker takes at a time.")] = 8,
    samples_per_job: Annotated[
        int | None,
        typer.Option(
            help="Of a prompt's samples (num_return_sequences) so many that one worker takes at a time. Default: all."
        ),
    ] = None,
    first_groups: Annotated[
        int | None,
        typer.Option(help="The batch is complete when so many groups have completions; the others are cut."),
    ] = None,
    keep_partials: Annotated[
        float | None,
        typer.Option(
            help="Seconds between two times that workers keep what running completions have so far; 0: never. "
            "Default: as each worker's --keep-partials says."
        ),
    ] = None,
    queue_deadline_s: QueueDeadline = None,
    run_deadline_s: RunDeadline = None,
    min_policy_version: MinPolicyVersion = None,
    max_staleness: MaxStaleness = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer's folder, for rows of text.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results, with a progress bar.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, callback=writable, help="With --wait: write the results here as JSONL."),
    ] = None,
    timeout: Timeout = None,
) -> None:
    """Queue the prompts of a JSONL file and print the batch id.

    A row is {"prompt_token_ids": [1, 2, 3]} or, with --tokenizer, {"text": "Two and two is"}. For a model that takes
    images, "images": ["cat.png"] names their files, relative to FILE.jsonl, in the order of their placeholders. With
    "expected_tokens": 900 in all rows, about how long a completion gets, workers start the longest first.

    Get the results with `rollstream results BATCH_ID --follow`, or wait for them with --wait.
    """
    if not wait and (out is not None or timeout is not None):
        raise typer.BadParameter("--out and --timeout need --wait")
    with exit_codes(), traced():
        prompts = read_prompt_file(file, tokenizer)
        generation = read_config(config, assignments or [], max_new_tokens)

        async def run() -> int:
            async with AsyncClient(redis, policy=policy, partitions=partitions) as client:
                handle = await client.submit(
                    [row.ids for row in prompts],
                    None,
                    generation,
                    images=[row.images for row in prompts],
                    expected_tokens=expected_of(prompts),
                    adapter=adapter,
                    batch_id=batch_id,
                    prompts_per_job=prompts_per_job,
                    samples_per_job=samples_per_job,
                    first_groups=first_groups,
                    keep_partials=keep_partials,
                    queue_deadline_s=queue_deadline_s,
                    run_deadline_s=run_deadline_s,
                    min_policy_version=min_policy_version,
                    max_staleness=max_staleness,
                )
                typer.echo(handle.batch_id)
                queued = "were queued already," if handle.is_repeat else "queued"
                typer.echo(f"{handle.num_groups} prompts {queued} in {handle.batch.num_jobs} jobs", err=True)
                if not wait:
                    return 0
                with output(out) if out else nullcontext() as results:
                    return await follow(handle, results, timeout)

        raise typer.Exit(asyncio.run(run()))


@app.command(epilog="Example: rollstream results BATCH_ID --policy math-7b --follow --out results.jsonl")
@reaches_redis
def results(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH_ID", help="What `rollstream submit` printed.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    wait: Annotated[bool, typer.Option("--follow", help="Wait for the rest, with a progress bar.")] = False,
    out: Out = None,
    timeout: Timeout = None,
) -> None:
    """Write a batch's results as JSONL, a line a group, in the order in which they finished.

    Without --follow it writes what is there now; if groups are missing, stderr says how many and the exit code is 5.

    A line is {"group": 0, "prompt_token_ids": [...], "completions": [...]} or, for a group that failed,
    {"group": 0, "error": {"code": ..., "field": ..., "message": ...}}. Of a batch of `rollstream score` the
    lines are those that it writes.

    A completion has "token_ids", "logprobs", "finish_reason", "stop_reason", "text", "score" and "version_spans".
    What the config asked for comes with it, an entry for each token: "top_token_ids" and "top_logprobs" (lists
    of K), "label_logprobs" (lists of M), "support" (lists of ids); "forced" (booleans) where a token was forced.
    null stands for minus infinity, which JSON does not have. With first_k a line also has "sample_index" (which
    samples these are) and "cut_lengths" (how long the others were when they were cut).
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout needs --follow")
    with exit_codes(), traced():

        async def run() -> int:
            keys = Keys(policy, partitions=partitions)
            async with shared_command(redis, keys) as connection:
                async with asyncio.timeout(timeout):
                    handle = await attached(connection, keys, batch_id)
                with output(out) as lines:
                    if wait:
                        return await follow(handle, lines, timeout)
                    return write_unfinished(handle, await handle.finished(), lines)

        raise typer.Exit(asyncio.run(run()))


app.command("replay", epilog=REPLAY_EPILOG)(replay)
app.command("web", epilog=WEB_EPILOG)(web)
app.command("gateway", epilog=GATEWAY_EPILOG)(gateway)
app.add_typer(scoring)
app.add_typer(showing)
app.add_typer(watching)
app.add_typer(listing)
app.add_typer(listing_runs)
app.add_typer(listing_sessions)
app.add_typer(operating)
app.add_typer(allowing)
app.add_typer(leasing)
app.add_typer(observing)
app.add_typer(publishing)
app.add_typer(activating)
app.add_typer(listing_versions)
app.add_typer(probing)
app.add_typer(completing)
app.add_typer(dead, name="dead")
app.add_typer(golden, name="golden")
