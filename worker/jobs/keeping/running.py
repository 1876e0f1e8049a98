"""A group whose samples run, and what of them is not kept yet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from rollstream.schemas import Envelope, Job, Part

from ...delivery.lease import Lease
from ..prompts.image_prompts import Seen
from ..samples import Samples, SoFar
from .sample_parts import part_of

WORTH = 64
"""A group is kept once its samples have so many tokens together that are not kept yet: fewer are soon sampled again."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True, kw_only=True)
class Running:
    """A group whose samples run."""

    number: int
    lease: Lease
    envelope: Envelope
    job: Job
    group: int
    samples: Samples
    of: str
    seen: Seen
    every_s: float
    due_at: float = 0.0
    worth: int = WORTH
    """How many tokens must be new."""
    is_hurried: bool = False
    """Whether one is enough this time."""
    handed: bool = False
    kept: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """How long each sample is in Redis, and whether it had ended."""

    def news(self) -> tuple[list[SoFar], int]:
        """What its samples have beyond what is kept, and how many tokens that are."""
        found, tokens = list[SoFar](), 0
        for one in self.samples.so_far():
            length, before = len(one.completion.token_ids), self.kept.get(one.sample, (0, False))
            if (length, one.ended) != before:
                found.append(one)
                tokens += length - before[0]
        return found, tokens

    def parts(self, found: Collection[SoFar]) -> list[Part]:
        """The messages for these."""
        try:
            return [part_of(one, self.lease, self.job, self.group, self.of, self.seen) for one in found]
        except ValueError as error:  # the group itself will be refused for it, or nothing is wrong with it
            log.warning("parts not kept", batch=self.job.batch_id, group=self.group, error=str(error))
            return []
