"""A job's entry names its batch and groups beside the payload, so that an unreadable payload is still answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias

from ..errors import NameRefusedError, WireError, shown
from ..keys import check_name
from .entry_fields import BATCH, KIND, PAYLOAD, SHARE, TOKENS
from .fields import MAX_GROUPS_PER_JOB, check_traceparent
from .messages import Job
from .scores import ScoreJob
from .shares import Share

JOB_KIND = "job"
SCORE_KIND = "score"
UNREADABLE_KIND = "unreadable"
"""Stands for a kind that is no name: no worker knows it."""
DEFAULT_LANE = "default"
_MAX_TOKENS = 2**40
"""More than 4096 groups of 2**22 tokens."""

QueuedJob: TypeAlias = Job | ScoreJob
"""What an entry of the jobs stream may carry, told apart by `kind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The plain fields of a job's entry: numbers are ASCII decimals. Fields with a default may be missing."""

    batch_id: str
    job: int
    first_group: int
    job_groups: int
    num_groups: int
    kind: str = JOB_KIND
    """`kind` of the payload's message."""
    lane: str = DEFAULT_LANE
    tokens: int = 0
    """Most tokens of its completions together, groups x n x `max_new_tokens`, or all tokens of its rows to score.

    0 if the entry does not say."""
    traceparent: str | None = None
    """W3C trace context of the submit, if it had one."""
    share: Share | None = None
    """Which samples of its groups the job has; None: all."""

    def fields(self, payload: bytes) -> dict[bytes, bytes]:
        """The fields for XADD."""
        traced = {} if self.traceparent is None else {b"traceparent": self.traceparent.encode()}
        shared = {} if self.share is None else {SHARE: self.share.field()}
        return {
            BATCH: self.batch_id.encode(),
            b"job": b"%d" % self.job,
            b"first": b"%d" % self.first_group,
            b"groups": b"%d" % self.job_groups,
            b"total": b"%d" % self.num_groups,
            KIND: self.kind.encode(),
            b"lane": self.lane.encode(),
            TOKENS: b"%d" % self.tokens,
            **shared,
            **traced,
            PAYLOAD: payload,
        }

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Self:
        """The envelope of an entry. Raises `WireError` that names a missing, unreadable or out-of-bounds field of those
        without a default. Of the others what makes no sense counts as missing, so that the groups get their answers.
        """
        payload = fields.get(PAYLOAD, b"")
        try:
            batch_id = check_name("batch_id", fields[BATCH].decode())
            job, first, groups, total = (_number(fields, name) for name in (b"job", b"first", b"groups", b"total"))
        except KeyError as error:
            raise WireError("job entry", f"field {error.args[0].decode()!r} is missing", payload) from None
        except (ValueError, NameRefusedError) as error:
            raise WireError("job entry", str(error), payload) from None
        if not (1 <= groups <= MAX_GROUPS_PER_JOB and first + groups <= total):
            raise WireError("job entry", f"groups {first} to {first + groups} of {total} are out of bounds", payload)
        return cls(
            batch_id=batch_id,
            job=job,
            first_group=first,
            job_groups=groups,
            num_groups=total,
            kind=_name(fields, KIND, JOB_KIND) or UNREADABLE_KIND,
            lane=_name(fields, b"lane", DEFAULT_LANE) or DEFAULT_LANE,
            tokens=_tokens(fields),
            traceparent=_traceparent(fields),
            share=Share.read(fields.get(SHARE, b"")),
        )

    @classmethod
    def of_job(cls, job: QueuedJob, traceparent: str | None = None) -> Self:
        """The envelope that `job` is queued in."""
        return cls(
            batch_id=job.batch_id,
            job=job.job,
            first_group=job.first_group,
            job_groups=len(job.groups),
            num_groups=job.num_groups,
            kind=job.kind,
            tokens=_most_tokens(job),
            traceparent=traceparent,
            share=_share(job),
        )

    def check_names(self, job: QueuedJob, payload: bytes = b"") -> None:
        """Raises `WireError` unless `job` has the batch, number and groups that the envelope names."""
        inside = Envelope.of_job(job)
        if inside.names != self.names:
            raise WireError(type(job).__name__, f"payload says {_told(inside)}, the entry says {_told(self)}", payload)

    @property
    def names(self) -> tuple[str, int, range, int, Share | None]:
        """Batch, job, groups of the job, groups of the batch, samples: every answer is published under these."""
        return self.batch_id, self.job, self.groups, self.num_groups, self.share

    @property
    def asked(self) -> int:
        """Most tokens that may be generated for it: what a queue's totals count, and not tokens that are only scored.

        A worker scores several times as many tokens a second, so the two make no common sum.
        """
        return 0 if self.kind == SCORE_KIND else self.tokens

    @property
    def asked_of_group(self) -> int:
        """The same for one of its groups, with the samples that other jobs have."""
        each = self.asked // self.job_groups
        return each if self.share is None else each // self.share.samples * self.share.of

    @property
    def groups(self) -> range:
        """Group numbers of this job, counted over the batch."""
        return range(self.first_group, self.first_group + self.job_groups)


def _most_tokens(job: QueuedJob) -> int:
    if isinstance(job, ScoreJob):
        return job.token_ids.shape[0]
    return len(job.groups) * job.sampled * job.config.max_new_tokens


def _share(job: QueuedJob) -> Share | None:
    if isinstance(job, ScoreJob) or job.samples is None:
        return None
    return Share(first=job.first_sample, samples=job.samples, of=job.config.num_return_sequences)


def _name(fields: Mapping[bytes, bytes], name: bytes, default: str) -> str:
    """The name in a field, `default` where there is no such field, and an empty text where it holds no name."""
    try:
        return check_name("name", fields.get(name, default.encode()).decode())
    except (ValueError, NameRefusedError):
        return ""


def _tokens(fields: Mapping[bytes, bytes]) -> int:
    try:
        return _number(fields, TOKENS, _MAX_TOKENS)
    except (KeyError, ValueError):
        return 0


def _traceparent(fields: Mapping[bytes, bytes]) -> str | None:
    """The entry's trace context; None if it is none: a job is answered even if it cannot be traced, as W3C asks."""
    try:
        return check_traceparent(fields[b"traceparent"].decode())
    except (KeyError, ValueError, NameRefusedError):
        return None


def _told(envelope: Envelope) -> str:
    first, last, share = envelope.first_group, envelope.first_group + envelope.job_groups - 1, envelope.share
    samples = "" if share is None else f", samples {share.first} to {share.numbers[-1]} of {share.of}"
    return (
        f"job {envelope.job} of batch {envelope.batch_id!r}, groups {first} to {last} of {envelope.num_groups}{samples}"
    )


def _number(fields: Mapping[bytes, bytes], name: bytes, bound: int = 2**31) -> int:
    text = fields[name]
    if not (text.isdigit() and len(text) <= 15 and int(text) < bound):
        raise ValueError(f"{name.decode()}: {shown(text)} is no number below {bound}")
    return int(text)
