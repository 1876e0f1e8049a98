"""Makes the objects of this room; `app` calls it, and nothing else does."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys

from ..adapters.supply import AdapterSupply
from ..config import WorkerSettings
from ..conversations.earlier_turns import EarlierTurns
from ..conversations.whole_jobs import WholeJobs
from ..delivery.admission import Admission
from ..delivery.answer_publisher import AnswerPublisher
from ..delivery.parts import Parts
from ..engine import Engine
from ..images.make_images import make_images
from ..measure.measures import Measures
from ..versions.follower import VersionFollower
from .deadlines import RedisClock
from .groups import Groups
from .keeping.keeper import Keeper
from .plans import Plans
from .prompts.gate import Gate
from .prompts.image_prompts import ImagePrompts
from .runner import JobRunner
from .shared_groups import SharedGroups

DECODED_AT_ONCE = 4
"""How many of the largest images may be decoded at once; a prompt with more pixels goes alone."""


def make_runner(  # noqa: PLR0913 - what the room needs of others, given by `app`
    *,
    settings: WorkerSettings,
    redis: Redis,
    keys: Keys,
    engine: Engine,
    adapters: AdapterSupply,
    publisher: AnswerPublisher,
    parts: Parts,
    admission: Admission,
    follower: VersionFollower,
    clock: RedisClock,
    measures: Measures,
) -> tuple[JobRunner, Keeper]:
    """What runs jobs, and what keeps what their running completions have."""
    keeper = Keeper(parts=parts, engine=engine, every_s=settings.keep_partials, lease_s=settings.lease_s)
    plans = Plans(
        engine=engine,
        adapters=adapters,
        measures=measures,
        gate=Gate(lambda: settings.scored_at_once(engine.info.step_tokens)),
        keeper=keeper,
        whole=WholeJobs(turns=EarlierTurns(redis=redis, keys=keys)),
        prompts=ImagePrompts(
            engine=engine,
            images=make_images(settings=settings, redis=redis, keys=keys),
            max_pixels=DECODED_AT_ONCE * settings.max_image_pixels,
            max_bytes=settings.image_memory_bytes,
        ),
        routing=publisher.routing(lambda: engine.info.routing),
        admission=admission,
    )
    runner = JobRunner(
        plans=plans,
        groups=Groups(publisher=publisher, shared=SharedGroups(shares=publisher.shares(parts)), measures=measures),
        adapters=adapters,
        publisher=publisher,
        admission=admission,
        clock=clock,
        follower=follower,
        measures=measures,
    )
    return runner, keeper
