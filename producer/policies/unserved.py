"""After a publish the logger `rollstream` warns of live workers that report that they cannot serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from rollstream.schemas import Keys, PolicyVersion

from ..calls.patience import log
from ..errors import ProducerError
from ..redis_io.connection import Connection
from .wait_for_version import Kind, Serving, read_serving

_LOOK_S = 2.0
"""The longest time for this look, in seconds: the publish is done, so nothing waits for a Redis that is away."""
_NEEDED: dict[Kind, tuple[str, str]] = {
    "checkpoint": ("published checkpoints", "--checkpoint-dir"),
    "adapter": ("published adapters", "--lora"),
    "store": ("versions from the weight store", "--weights"),
}
"""What a worker takes, and the flag with which it is started for that."""


def kinds_of(published: PolicyVersion) -> tuple[Kind, ...]:
    """What workers must have been started for."""
    if published.transport == "folder":
        return (published.source,)
    return ("store", "adapter") if published.source == "adapter" else ("store",)


async def warn_of_unserved(connection: Connection, keys: Keys, what: str, *kinds: Kind) -> None:
    """Log a warning for each such worker. A fault of Redis only skips the look."""
    try:
        async with asyncio.timeout(_LOOK_S):
            serving = await read_serving(connection, keys)
    except (ProducerError, TimeoutError):
        return
    for text in unserved(serving, *kinds):
        log.warning("%s was published, but %s", what, text)


def unserved(serving: Mapping[str, Serving], *kinds: Kind) -> Iterator[str]:
    """A sentence for each worker that was not started for these kinds, or refused the version before."""
    for name, one in serving.items():
        if refused := [kind for kind in kinds if kind in one.refused_kinds]:
            taken, flag = _NEEDED[refused[0]]
            yield f"worker {name} takes no {taken}: start it with {flag}"
        elif one.problem:
            yield f"worker {name} serves version {one.version} and refused {one.newest}: {one.problem}"
