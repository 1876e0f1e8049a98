"""The one way in for a trainer's weights: to the weight store, or to a folder or Redis, and then to the stream."""

from __future__ import annotations

from functools import partial

from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.hashes.runs import RunFence

from ..calls.arguments import number
from ..calls.options import check_names
from ..policies.publish_options import PUBLISH_DEFAULTS, PublishOptions
from ..policies.publish_policy import publish_policy
from ..policies.unserved import kinds_of, warn_of_unserved
from ..redis_io.connection import Connection
from .adapters import with_adapter
from .publish_tensors import goes_to_store, publish_tensors
from .publisher import WeightsPublisher


async def publish(
    connection: Connection,
    keys: Keys,
    weights: WeightsPublisher | None,
    version: int,
    options: PublishOptions,
    fence: RunFence | None = None,
) -> PolicyVersion:
    """See `AsyncClient.publish_policy`; `weights`: the client's weight store, `fence`: the run that it goes through."""
    check_names(options, PUBLISH_DEFAULTS)
    chosen = with_adapter(version, {**PUBLISH_DEFAULTS, **options})
    if goes_to_store(chosen, has_store=weights is not None):
        way = partial(publish_tensors, publisher=weights)
    else:
        way = partial(publish_policy, keep=None if weights is None else weights.keep)
    published = await way(connection, keys, number(version), chosen, fence=fence)
    await warn_of_unserved(connection, keys, f"policy version {version}", *kinds_of(published))
    return published
