"""After a publish the logger `rollstream` warns of live workers that report that they cannot serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from rollstream.schemas import Keys
from rollstream.schemas.wire.policies import VersionSource

from ..calls.patience import log
from ..errors import ProducerError
from ..redis_io.connection import Connection
from .wait_for_version import Serving, read_serving

_LOOK_S = 2.0
"""The longest time for this look, in seconds: the publish is done, so nothing waits for a Redis that is away."""
_FLAGS: dict[VersionSource, str] = {"checkpoint": "--checkpoint-dir", "adapter": "--lora"}


async def warn_of_unserved(connection: Connection, keys: Keys, what: str, kind: VersionSource) -> None:
    """Log a warning for each such worker. `kind`: `checkpoint` or `adapter`. A fault of Redis only skips the look."""
    try:
        async with asyncio.timeout(_LOOK_S):
            serving = await read_serving(connection, keys)
    except (ProducerError, TimeoutError):
        return
    for text in unserved(serving, kind):
        log.warning("%s was published, but %s", what, text)


def unserved(serving: Mapping[str, Serving], kind: VersionSource) -> Iterator[str]:
    """A sentence for each worker that was not started for this kind, or refused the version before."""
    for name, one in serving.items():
        if kind in one.refused_kinds:
            yield f"worker {name} takes no published {kind}s: start it with {_FLAGS[kind]}"
        elif one.problem:
            yield f"worker {name} serves version {one.version} and refused {one.newest}: {one.problem}"
