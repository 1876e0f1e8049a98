"""Make new batches of selected jobs, without Redis: renumbered, with seeds and lineage, free to run at any version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from rollstream.schemas import Envelope, Job, Origin, ScoreDescription, ScoreJob, encode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.schemas.wire.requires import FIRST_GROUPS
from rollstream.schemas.wire.scores import Description

from ..batches.submission import AnySubmission
from ..policies.version_bounds import ANY_VERSION
from ..scores.submission import score_envelope
from .descriptions import describe, original_of
from .selection import Selected, Skipped, queued_job

_NAME_LENGTH, _SUFFIX_DIGITS = 128, 6
_MAX_LINEAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A selected job and its position in the new batch."""

    selected: Selected
    job: int
    first_group: int

    @property
    def changes(self) -> dict[str, Any]:
        """What the new job says otherwise than the original, besides what its batch says."""
        moved = self.selected.asked.moved(self.selected.groups.start - self.first_group)
        return {"job": self.job, "first_group": self.first_group, "lineage": self.lineage, **moved}

    @property
    def lineage(self) -> tuple[Origin, ...]:
        """All entries that this job repeats, the oldest first."""
        return (*self.selected.lineage, self.selected.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One new batch: some or all jobs of one original."""

    batch: Description
    """The new batch."""
    digest: str
    """sha256 of the selected entries' ids and payloads; the same at any time."""
    jobs: tuple[Placed, ...]
    original: Description | None
    """The original batch; None when its ledger is gone, or another batch's."""

    @property
    def original_id(self) -> str:
        """The batch that is replayed."""
        return self.jobs[0].selected.origin.batch_id

    def groups(self) -> Iterator[tuple[int, int]]:
        """(group of the original, group of the new batch), in order."""
        for placed in self.jobs:
            yield from zip(placed.selected.groups, range(placed.first_group, self.batch.num_groups), strict=False)

    def traced(self, traceparent: str | None) -> Replay:
        """The same with this trace context for its jobs."""
        return replace(self, batch=self.batch.model_copy(update={"traceparent": traceparent}))

    def submission(self, opened: Iterable[tuple[Placed, bytes]]) -> AnySubmission[Description]:
        """The submission of these jobs of the new batch. Raises `schemas.WireError` for a job that grew too large."""
        return AnySubmission(batch=self.batch, digest=self.digest, jobs=[self._renumbered(*pair) for pair in opened])

    def _renumbered(self, placed: Placed, payload: bytes) -> tuple[Envelope, bytes]:
        job = queued_job(payload)
        job = job.model_copy(
            update={
                "batch_id": self.batch.batch_id,
                "num_groups": self.batch.num_groups,
                "submitted_at": self.batch.submitted_at,
                **_all_wanted(job),
                **asdict(ANY_VERSION),  # the bounds were meant for the original run: any served version may run it
                **placed.changes,
            }
        )
        if isinstance(job, ScoreJob) and isinstance(self.batch, ScoreDescription):
            return score_envelope(job, self.batch), encode(job)
        return Envelope.of_job(job, self.batch.traceparent), encode(job)


def _all_wanted(job: QueuedJob) -> dict[str, Any]:
    """A replay wants all of its groups, also where the original was complete with the first few."""
    if not isinstance(job, Job):
        return {}
    return {"first_groups": None, "requires": tuple(name for name in job.requires if name != FIRST_GROUPS)}


def new_batch_id(original_id: str, attempt: str) -> str:
    """`<original>.replay-<6 hex>`, the same for the same `attempt`. A long original is cut to keep the id valid."""
    digits = hashlib.sha256(f"{attempt}:{original_id}".encode()).hexdigest()[:_SUFFIX_DIGITS]
    suffix = f".replay-{digits}"
    return original_id[: _NAME_LENGTH - len(suffix)] + suffix


def plan(
    jobs: Iterable[Selected], originals: Mapping[str, Description], named: Callable[[str], str], submitted_at: float
) -> tuple[list[Replay], list[Skipped]]:
    """One `Replay` for each original batch, the earliest queued first, and the jobs that fit into none.

    `originals` has the batches that still have a ledger; `named` turns an original's id into the new one. Raises
    `schemas.NameRefusedError` for a new id that is not valid.
    """
    replays, skipped = [], []
    for batch_id, members in groupby(sorted(jobs, key=_batch_id), key=_batch_id):
        fitting, refused = _fitting(list(members))
        skipped += refused
        if fitting:
            replays.append(_replay(fitting, originals.get(batch_id), named(batch_id), submitted_at))
    return sorted(replays, key=lambda replay: _age_key(replay.jobs[0].selected)), skipped


def _batch_id(selected: Selected) -> str:
    return selected.origin.batch_id


def _age_key(selected: Selected) -> EntryId:
    return EntryId.of(selected.origin.entry_id)


def _fitting(members: list[Selected]) -> tuple[list[Selected], list[Skipped]]:
    """The jobs that can be one batch, sorted by group, and the rest.

    If a batch id was used again after its batch had expired, the jobs of the newer batch are kept.
    """
    newest, *older = sorted(members, key=_age_key, reverse=True)
    fitting: list[Selected] = []
    taken: list[Selected] = []
    skipped: list[Skipped] = []
    for selected in (newest, *older):
        reason = _misfit(selected) or _disagreement(selected, newest)
        if reason is None:
            taken.append(selected)
        else:
            skipped.append(Skipped(place=selected.place, reason=reason))
    taken.sort(key=_place_key)  # of those that begin alike the newest stays first
    for selected in taken:
        if fitting and _is_share_of(selected, fitting[-1]):
            continue  # the first one's replay has the samples of all
        if fitting and selected.groups.start < fitting[-1].groups.stop:
            reason = f"has groups of {fitting[-1].place.entry_id}, which is selected too"
            skipped.append(Skipped(place=selected.place, reason=reason))
        else:
            fitting.append(selected)
    return fitting, skipped


def _place_key(selected: Selected) -> tuple[int, int]:
    share = selected.asked.share
    return selected.groups.start, 0 if share is None else share.first


def _is_share_of(one: Selected, other: Selected) -> bool:
    """Whether they have other samples of the same groups."""
    mine, theirs = one.asked.share, other.asked.share
    return mine is not None and theirs is not None and one.groups == other.groups and mine.first > theirs.first


def _misfit(selected: Selected) -> str | None:
    if len(selected.lineage) >= _MAX_LINEAGE:
        return f"was replayed {_MAX_LINEAGE} times already"
    return selected.asked.misfit(selected.groups.start)


def _disagreement(selected: Selected, newest: Selected) -> str | None:
    """Why the two cannot be in one batch, which asks for one thing with one adapter; None if they can."""
    same = (selected.asked.settings, selected.adapter, selected.num_groups) == (
        newest.asked.settings, newest.adapter, newest.num_groups,
    )  # fmt: skip
    return None if same else f"is of another batch of the same id than {newest.place.entry_id}: select it by --job"


def _replay(jobs: list[Selected], found: Description | None, batch_id: str, submitted_at: float) -> Replay:
    placed, first = [], 0
    for number, selected in enumerate(jobs):
        placed.append(Placed(selected=selected, job=number, first_group=first))
        first += len(selected.groups)
    original = original_of(jobs, found)
    common = {
        "batch_id": batch_id, "num_groups": first, "num_jobs": len(jobs), "adapter": jobs[0].adapter,
        "submitted_at": submitted_at, "lineage": placed[0].lineage,
    }  # fmt: skip
    batch = describe(jobs, original, common)
    return Replay(batch=batch, digest=_digest(jobs), jobs=tuple(placed), original=original)


def _digest(jobs: list[Selected]) -> str:
    digest = hashlib.sha256(b"replay")
    for selected in jobs:
        digest.update(f"\0{selected.origin.batch_id}\0{selected.origin.entry_id}\0".encode())
        digest.update(selected.sha256)
    return digest.hexdigest()
