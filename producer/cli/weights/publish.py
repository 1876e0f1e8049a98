"""`rollstream publish` and `rollstream publish-adapter`: new weights from the command line."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from rollstream.schemas import Activate, PolicyVersion
from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.keys import check_adapter
from rollstream.schemas.message_files import PROBE_FILES
from rollstream.schemas.wire.policies import When
from rollstream.transport.redis.access import RedisAccess

from ...client import AsyncClient
from ..options import DEFAULT_REDIS, Policy, reaches_redis
from ..output import exit_codes, say
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
"""`app` adds these commands to `rollstream`."""

_EPILOG = """Examples:

rollstream publish 17 --checkpoint checkpoints/step-17 --policy math-7b --wait --timeout 120

rollstream publish 18 --checkpoint checkpoints/step-18 --probe step-18.probe --activate when-prepared --share 0.9
--activate-after 300 --policy math-7b

rollstream publish 19 --again 17 --policy math-7b

rollstream publish 20 --adapter adapters/step-20 --weights s3://bucket/run --policy math-7b

rollstream publish 21 --again 20 --weights s3://bucket/run --policy math-7b
"""


class Moment(StrEnum):
    """`When` as a command line spells it."""

    AT_ONCE = "at-once"
    WHEN_PREPARED = "when-prepared"
    BY_HAND = "by-hand"


@commands.command(cls=TakesVersion, epilog=_EPILOG)
@reaches_redis
def publish(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    version: Annotated[
        int,
        typer.Argument(min=1, max=MAX_VERSION, metavar="VERSION", help="Above the newest; see `rollstream versions`."),
    ],
    policy: Policy,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Without --weights: a folder directly below the workers' --checkpoint-dir."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A LoRA adapter in PEFT's format; without --weights through Redis."),
    ] = None,
    again: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_VERSION, metavar="OLDER", help="The weights of this older version: the way back."),
    ] = None,
    weights: WeightsPlace = None,
    probe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What workers must reproduce first; `rollstream probe` makes it."),
    ] = None,
    activate: Annotated[
        Moment,
        typer.Option(help="When workers serve it: with this command, once they have prepared it, or on your word."),
    ] = Moment.AT_ONCE,
    share: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="With when-prepared: which part of the live workers; default: all."),
    ] = None,
    activate_after: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e9 - 1, metavar="SECONDS", help="With when-prepared: after so long in any case."),
    ] = None,
    redis: RedisAccess = DEFAULT_REDIS,
    wait: Wait = False,
    workers: WaitFor = "all",
    timeout: Timeout = None,
) -> None:
    """Announce new weights as policy version VERSION; workers verify them and swap.

    Of a checkpoint only the folder's name and digest are sent: workers find the folder below their own
    --checkpoint-dir, on a shared file system. Publishing the same again is a no-op.

    With --weights the tensors themselves are sent, all of them, through the store that the workers were started with;
    the folder may go afterwards. With --again it is looked at: a version of which it has lost a part is refused (exit
    1), and what it has in Redis stays for another week. A trainer that publishes from Python sends deltas.

    With --probe no completion leaves a worker before it has reproduced the log-probs in FILE with the new weights; a
    worker that cannot serves on with the version before, and says by how much it was off.

    Workers prepare a version while they serve the one before. --activate says when they change over: at-once, each as
    soon as it can; when-prepared, all together; by-hand, after `rollstream activate VERSION`.
    """
    if sum(given is not None for given in (checkpoint, adapter, again)) != 1:
        raise typer.BadParameter("give one of --checkpoint DIR, --adapter DIR and --again OLDER")
    if activate is not Moment.WHEN_PREPARED and (share, activate_after) != (None, None):
        raise typer.BadParameter("--share and --activate-after need --activate when-prepared")
    wanted = waited_workers(workers, wait=wait, timeout=timeout)
    if wait and timeout is None and activate is Moment.BY_HAND:
        raise typer.BadParameter("--wait with --activate by-hand waits for your `rollstream activate`: give --timeout")
    when = cast("When", activate.value.replace("-", "_"))
    terms = Activate(when=when, share=1.0 if share is None else share, timeout_s=activate_after)

    async def announce() -> None:
        async with AsyncClient(redis, policy=policy, weights=weights) as client:
            announced = await client.publish_policy(
                version,
                checkpoint=checkpoint,
                store=None if weights is None or checkpoint is None else True,
                adapter=adapter,
                again=again,
                probe=None if probe is None else PROBE_FILES.read(probe),
                activate=terms,
                progress=True,
            )
            typer.echo(_told(policy, announced))
            if weights is None and announced.transport == "store":
                say(f"nobody looked whether the weight store still has {announced.location}: --weights does")
            if wait:
                await client.wait_for_version(version, wanted, timeout)
                say_served(version)

    run(announce())


def _told(policy: str, announced: PolicyVersion) -> str:
    version, terms = announced.version, announced.activate
    way = "" if announced.transport == "folder" else " through the weight store"
    told = f"policy {policy} version {version}: {announced.source} {announced.location} published{way}"
    if terms.when == "by_hand":
        return f"{told}; workers prepare it, and serve it after `rollstream activate {version}`"
    if terms.when == "when_prepared":
        late = "" if terms.timeout_s is None else f", or {terms.timeout_s:g} s have passed"
        return f"{told}; workers serve it once {terms.share:.0%} of them have prepared it{late}"
    return told


@commands.command(
    "publish-adapter", epilog="Example: rollstream publish-adapter math@17 adapters/math --policy math-7b"
)
@reaches_redis
def publish_adapter(
    adapter: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A name that no other adapter has.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="As PEFT's save_pretrained writes it.")],
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
) -> None:
    """Ship a LoRA adapter to the workers through Redis and print its name, for `submit --adapter`."""
    with exit_codes():
        name, _, version = check_adapter(adapter).partition("@")

        async def send() -> str:
            async with AsyncClient(redis, policy=policy) as client:
                return await client.publish_adapter(name, int(version), folder, progress=True)

        typer.echo(asyncio.run(send()))
