"""Groups whose samples several jobs share out: whichever job has the last of them puts the group together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from rollstream.schemas import ErrorCode, GroupResult, Part, RoutedExperts
from rollstream.schemas.wire.parts import content_of
from rollstream.schemas.wire.routing import check_rows
from rollstream.schemas.wire.shares import Share

from ..delivery.lease import Lease
from ..delivery.part_weights import shown
from ..delivery.routing import described
from ..delivery.shares import Shares
from ..errors import DataError, LeaseLostError
from ..requests import Completion
from .admitted_job import AdmittedJob
from .keeping.sample_parts import part_of, seen_by, so_far_of
from .make_answers import GroupShare, Sampled, group_result
from .open_job import cancelled
from .prompts.image_prompts import Seen
from .samples import SoFar

_READS = 3
"""If samples of a complete group are not there, Redis may have lost its last writes meanwhile, and the note that they
are there: handing in again tells. So often it is asked."""

log = structlog.get_logger()


class SharedGroups:
    """Hands in shares, and makes the answer of a group of which all are there."""

    def __init__(self, *, shares: Shares) -> None:
        self._shares = shares

    async def joined(self, admitted: AdmittedJob, has: GroupShare) -> GroupResult | None:
        """The group's answer; None if others have to sample the rest of it, or have answered it.

        Raises `LeaseLostError`, `UnpublishableError`, and `DataError` for what is no group.
        """
        found: dict[int, Part] = {}
        for read in range(_READS):
            if not await self._has_all(admitted, has, counts=read == 0):
                return None
            found = await self._shares.of_group(admitted.lease, has.job, has.group)
            if not gaps_in(found, has.of):
                break
        check_follow(found, has.prompt.seen)
        sampled = put_together(found, has.of)
        check_rows_fit(sampled, len(has.prompt.ids))
        return group_result(admitted.lease, has.job, has.group, has.prompt, sampled, has.started, has.earlier)

    async def _has_all(self, admitted: AdmittedJob, has: GroupShare, *, counts: bool) -> bool:
        """Hand the share in, and tell whether those of all other jobs are there too."""
        lease, share = admitted.lease, Share(first=has.job.first_sample, samples=has.job.sampled, of=has.of)
        parts = parts_of(lease, has)
        outcome = await self._shares.hand_in(lease, admitted.envelope, share, has.group, parts, counts=counts)
        log.debug("samples handed in", batch=has.job.batch_id, group=has.group, first=share.first, outcome=outcome)
        match outcome:
            case "fenced":
                raise LeaseLostError(f"{lease} was fenced")
            case "cancelled":
                raise cancelled()
            case _:
                return outcome == "complete"


def parts_of(lease: Lease, has: GroupShare) -> list[Part]:
    """The samples as they wait for the others. Raises `DataError` for what no part carries."""
    numbers, content = range(has.job.first_sample, has.of), content_of(has.job, has.group)
    samples = located(has.sampled)
    resumed_at = has.sampled.resumed_at or (0,) * len(samples)
    try:
        return [
            part_of(
                SoFar(sample=number, completion=one, ended=True, resumed_at=at),
                lease,
                has.job,
                has.group,
                content,
                has.prompt.seen,
            )
            for number, one, at in zip(numbers, samples, resumed_at, strict=False)
        ]
    except ValueError as error:
        problem = f"a sample cannot be handed in to its group: {error}"
        raise DataError(ErrorCode.ENGINE_REFUSED, "samples_per_job", problem) from None


def check_follow(found: Mapping[int, Part], seen: Seen) -> None:
    """Raises `DataError` unless all samples follow the prompt that this worker has, see `Prompt.seen`."""
    others = sorted(number for number, part in found.items() if seen_by(part) != seen)
    if others:
        is_longer = any(found[number].expanded != seen.ids for number in others)
        made = "expanded the prompt" if is_longer else "made pixels of the images"
        problem = (
            f"images: samples {shown(others)} are of a worker that {made} otherwise than this one: "
            "give all workers the same processor of images, then submit the prompt again under another batch_id"
        )
        raise DataError(ErrorCode.IMAGE_REFUSED, "images", problem)


def put_together(found: Mapping[int, Part], of: int) -> Sampled:
    """All `of` samples of a group, of whatever jobs. Raises `DataError` that names those which are not there."""
    if gaps := gaps_in(found, of):
        problem = (
            f"samples {shown(gaps)} of {of} are not in Redis although they were handed in: their parts expired, were "
            "removed, or are none of this job; submit the prompt again under another batch_id"
        )
        raise DataError(ErrorCode.SAMPLES_MISSING, "samples_per_job", problem)
    parts = [found[number] for number in range(of)]
    resumed_at = tuple(part.resumed_at for part in parts)
    return Sampled(
        completions=[so_far_of(part).completion for part in parts],
        resumed_at=resumed_at if any(resumed_at) else (),
        routing=joined_routing([part.routing for part in parts]),
    )


def gaps_in(found: Mapping[int, Part], of: int) -> list[int]:
    """The samples that are not there, or not finished."""
    return [number for number in range(of) if number not in found or not found[number].is_finished]


def located(sampled: Sampled) -> list[Completion]:
    """The completions, each with where its own routing is."""
    routing = sampled.routing
    if routing is None:
        return sampled.completions
    each = zip(sampled.completions, routing.rows, routing.sha256, strict=True)
    return [replace(one, routing=described(routing.shape, [(rows, sha256)])) for one, rows, sha256 in each]


def check_rows_fit(sampled: Sampled, prompt_tokens: int) -> None:
    """Raises `DataError` for routing of other tokens: a part came out of Redis, and may say anything."""
    if sampled.routing is None:
        return
    try:
        check_rows(sampled.routing, prompt_tokens, [len(one.token_ids) for one in sampled.completions])
    except ValueError as error:
        raise DataError(ErrorCode.SAMPLES_MISSING, "routed_experts", f"{error}: submit the prompt again") from None


def joined_routing(found: Sequence[RoutedExperts | None]) -> RoutedExperts | None:
    """Where that of all samples is; None if it was not asked for. Raises `DataError` for samples of other models."""
    there = [one for one in found if one is not None]
    if not there:
        return None
    if len(there) < len(found) or any(one.shape != there[0].shape for one in there):
        problem = "the group's samples have routing of different models: give all workers of a policy the same"
        raise DataError(ErrorCode.ENGINE_REFUSED, "routed_experts", problem)
    return described(there[0].shape, [(one.rows[0], one.sha256[0]) for one in there])
