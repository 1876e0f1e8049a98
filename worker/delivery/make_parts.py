"""Makes `Parts` from a worker's settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.wire.fields import VersionSpan

from ..config import WorkerSettings
from ..engine import Engine
from ..measure.measures import Measures
from ..weights.contents import Contents, boot_digest
from .parts import Parts

_DECIDE_NUMBERS = ("dtype", "hf_overrides", "kv_cache_dtype", "load_format", "model", "quantization", "revision")
"""Arguments of the engine with which the same weights sample other tokens."""


def make_parts(
    *,
    settings: WorkerSettings,
    redis: Redis,
    keys: Keys,
    engine: Engine,
    measures: Measures,
    check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
    nearly_full: Callable[[], bool],
) -> tuple[Parts, Contents]:
    """The parts of the jobs of one worker, and what its version numbers stand for; its engine need not have started."""
    contents = contents_of(settings)
    parts = Parts(
        redis=redis,
        keys=keys,
        measures=measures,
        check_proven=check_proven,
        vocab_size=lambda: engine.info.vocab_size,
        content_of=contents.of,
        most_bytes=settings.partials_bytes,
        most_policy_bytes=settings.partials_policy_bytes,
    )
    parts.nearly_full = nearly_full
    return parts, contents


def contents_of(settings: WorkerSettings) -> Contents:
    """The contents of a worker that has served nothing yet. An engine without a model is its own."""
    asked = {name: settings.engine_args[name] for name in _DECIDE_NUMBERS if name in settings.engine_args}
    boot = settings.engine if settings.model is None else boot_digest(settings.model)
    return Contents(boot=boot, computes=json.dumps([settings.engine, settings.dtype, asked], sort_keys=True))
