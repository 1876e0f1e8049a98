"""`rollstream golden`: record jobs with what a fleet gives for them, and check whether it gives the same again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from rollstream.schemas import ConfigError, GenerationConfig, Golden, Keys, OptionError, Tolerance
from rollstream.schemas.message_files import GOLDEN_FILES
from rollstream.schemas.wire.proofs.golden import MAX_CASES
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..errors import PromptFileError
from ..golden.check import Checked
from ..golden.check import check as check_golden
from ..golden.record import record as record_golden
from ..redis_io.connection import Connection
from .config_flags import read_config
from .help import Commands
from .jsonl import PromptRow, read_prompt_file
from .options import DEFAULT_REDIS, Json, Partitions, Policy, Timeout, reaches_redis
from .output import EXIT_ERROR, exit_codes, print_lines, say
from .traced import traced
from .views.golden import checked_json, checked_lines, recorded_line

T = TypeVar("T")

golden = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Golden jobs: what a fleet gave once, and should give again after an upgrade.",
    epilog="Example: rollstream golden record --policy math-7b --out math-7b.golden",
)


@golden.command(
    epilog="Example: rollstream golden record --policy math-7b --prompts prompts.jsonl --out math-7b.golden"
)
@reaches_redis
def record(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    policy: Policy,
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE", help="Written whole, in place of an older one.")],
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    cases: Annotated[int, typer.Option(min=2, max=MAX_CASES, help="Half greedy, half sampled with a seed.")] = 16,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="As for `submit`; each is used twice. Default: made-up token ids."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer's folder, for rows of text.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens a completion may have.")] = 32,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=JSON",
            help="Any generation config field of the sampled half, such as --set top_p=0.9. Repeatable.",
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            metavar="MEAN,LARGEST",
            help="How far log-probs may be off, in nats; default: by the workers' dtype when the file is checked.",
        ),
    ] = None,
    timeout: Timeout = None,
) -> None:
    """Sample jobs by the live workers and keep their tokens and log-probs in FILE.

    Do this with workers that you trust: their log-probs agree with the trainer's
    (`--probe`, or a look at the first step's importance ratios). Then start
    workers with --golden FILE, and after each upgrade of a driver, a kernel or
    vLLM run `rollstream golden check FILE`.

    All workers that answer must be alike and serve one policy version; else
    nothing is written. A case is a prompt: half of them are greedy, half are
    sampled at temperature 1 with a seed, two completions each, unless --set says
    otherwise. Prompts of your own say more than made-up ones.
    """
    with exit_codes(), traced():
        GOLDEN_FILES.check_writable(out)
        allowed = None if tolerance is None else _tolerance(tolerance)
        given = None if prompts is None else _texts(prompts, read_prompt_file(prompts, tokenizer))
        sampled = _sampled(assignments or [], max_new_tokens)
        keys = Keys(policy, partitions=partitions)
        found: Golden = _run(
            redis,
            keys,
            lambda connection: record_golden(
                connection,
                keys,
                prompts=given,
                cases=cases,
                sampled=sampled,
                tolerance=allowed,
                timeout=timeout,
            ),
        )
        GOLDEN_FILES.write(out, found)
        say(recorded_line(found))
        typer.echo(str(out))


@golden.command(epilog="Example: rollstream golden check math-7b.golden --policy math-7b")
@reaches_redis
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `rollstream golden record` wrote.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    timeout: Timeout = None,
    json_output: Json = False,
) -> None:
    """Sample the jobs of FILE again by the live workers, and compare.

    A completion is `equal`, or has `diverged`: it is equal up to a token where
    rounding may decide between two, or it is `off`. Log-probs must agree within a
    tolerance that follows from the coarser of both dtypes (float32: 0.002 nats on
    average and 0.05 at most; float16: 0.02 and 0.5; bfloat16: 0.1 and 2), or that
    was recorded. Seeded completions that diverge more often than rounding
    explains are off all together.

    The workers must have the recorded model and serve the recorded version. A
    worker with --golden FILE compares more closely when it starts: it also scores
    the recorded tokens.

    Exit codes: 0 reproduced, 1 something is off, or error, 2 usage, 4 timed out.
    """
    with exit_codes(), traced():
        whole = GOLDEN_FILES.read(file)
        keys = Keys(policy, partitions=partitions)
        checked: Checked = _run(redis, keys, lambda connection: check_golden(connection, keys, whole, timeout))
        if json_output:
            typer.echo(json.dumps(checked_json(whole, checked)))
        else:
            print_lines(lambda width: checked_lines(whole, checked, width))
        if checked.comparison.problem:
            say(f"rollstream: golden: {checked.comparison.problem}")
            raise typer.Exit(EXIT_ERROR)


def _sampled(assignments: list[str], max_new_tokens: int) -> GenerationConfig:
    defaults = ["num_return_sequences=2", "seed=0"]
    try:
        return read_config(None, [*defaults, *assignments], max_new_tokens)
    except ConfigError as error:
        if error.field != "num_return_sequences" or any(one.startswith("num_return_sequences=") for one in assignments):
            raise
        raise typer.BadParameter("--set temperature=0: half of the cases are greedy anyway: leave it out") from None


def _texts(file: Path, rows: list[PromptRow]) -> list[list[int]]:
    """The ids of each prompt. Raises `PromptFileError`: a golden file holds no images."""
    if any(row.images for row in rows):
        raise PromptFileError(str(file), None, "has images, which golden jobs do not: leave those prompts out")
    return [row.ids for row in rows]


def _tolerance(text: str) -> Tolerance:
    """Raises `BadParameter`."""
    mean, _, largest = text.partition(",")
    try:
        return Tolerance(mean=float(mean), largest=float(largest))
    except (ValueError, OptionError):
        problem = f"{text!r}: write the mean (at most 1) and the largest (10) difference in nats, such as 0.01,0.2"
        raise typer.BadParameter(f"--tolerance {problem}") from None


def _run(redis: RedisAccess, keys: Keys, command: Callable[[Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        connection = Connection(access=redis, reconnect_s=60, keys=keys, role=Role.OPERATOR)
        try:
            return await command(connection)
        finally:
            await connection.aclose()

    return asyncio.run(run())
