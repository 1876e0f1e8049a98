"""The fields of a batch's ledger, a hash that producers and workers write by scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ..entry_id import EntryId
from ..errors import shown

_JOB = re.compile(rb"job:([0-9]{1,10})")
_MOST = 2**31


class LedgerField:
    """Names of fields, for producers, workers and their scripts."""

    DIGEST = "digest"
    """The batch's content digest: a submit of other content under its id is refused."""
    DESCRIPTION = "batch"
    """The `Batch` message, or the `ScoreDescription`."""
    GROUPS = "groups"
    """How many groups the batch has."""
    QUEUED = "queued"
    """How many of them were queued, by the jobs of `job`: at most so many answers count in the partition's totals."""
    DONE = "done"
    """How many groups have an answer."""
    KEEP = "keep"
    """For how many seconds results stay once sealed, if longer than usual: a trainer's run has not consumed them."""
    CONSUMED = "consumed"
    """Which run has consumed the batch, or dropped it: it is not submitted through a run again."""
    CANCELLED = "cancelled"
    """When the batch was cancelled, in Unix seconds."""
    FIRST_GROUPS = "first_groups"
    """With how many groups that have completions the batch is complete; no field: all groups are wanted."""
    GOOD = "good"
    """How many groups have completions, counted where there is `FIRST_GROUPS`."""
    CUTS = "cuts"
    """How many groups were cut. Workers that run the batch read its groups again when it changes."""
    CUT = "cut"
    """What stands in `group` of a group that was cut."""
    JOBS = "job:*"
    """Pattern of `job`."""
    ANSWERED_JOBS = "answered:*"
    """Pattern of `answered`."""

    @staticmethod
    def job(job: int) -> str:
        """The entry id of the job."""
        return f"job:{job}"

    @staticmethod
    def group(group: int) -> str:
        """Who answered the group: `<entry>|<consumer>|<delivery>`, or `cancelled`, or `cut`."""
        return f"g:{group}"

    @staticmethod
    def at(group: int) -> str:
        """The entry of the results stream that has the group's answer, if a worker published it."""
        return f"at:{group}"

    @staticmethod
    def answered(job: int) -> str:
        """How many groups of the job have an answer."""
        return f"answered:{job}"

    @staticmethod
    def duplicate(job: int, group: int) -> str:
        """Set if another entry had answered the group before, so that it counts for this job once."""
        return f"dup:{job}:{group}"

    @staticmethod
    def share(job: int, group: int) -> str:
        """Set once a job that has some samples of the group has all of them finished, in the batch's parts.

        `KEPT` and who kept them, while samples of other jobs were not finished: then the group counts as answered for
        this job. `COMPLETE`: it was the last one, and publishes the group.
        """
        return f"share:{job}:{group}"

    KEPT = "kept|"
    """How a `share` begins that counts as answered."""
    COMPLETE = "complete"

    @staticmethod
    def samples(group: int) -> str:
        """How many samples of the group are finished, of those that several jobs share out."""
        return f"samples:{group}"

    @staticmethod
    def begun(group: int) -> str:
        """Set once a worker begins a job with some samples of the group: from then on its other jobs are run, however
        late they come. Only where the jobs have a queue deadline.
        """
        return f"begun:{group}"

    @staticmethod
    def lived(entry_id: str, delivery: int) -> str:
        """Set if a delivery ended although its worker lived."""
        return f"lived:{entry_id}:{delivery}"

    @staticmethod
    def dead(entry_id: str) -> str:
        """Set if the entry is kept as a dead letter."""
        return f"dead:{entry_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCounts:
    """How many groups of a batch are done."""

    done: int
    groups: int | None
    """None if there is no such batch (any more)."""

    @classmethod
    def of(cls, done: bytes | None, groups: bytes | None) -> Self:
        """Read the values of `DONE`, which does not exist before the first answer, and `GROUPS`.

        Raises `ValueError` for what no script of ours wrote.
        """
        return cls(
            done=count(LedgerField.DONE, done or b"0"),
            groups=None if groups is None else count(LedgerField.GROUPS, groups),
        )


def count(name: str, value: bytes) -> int:
    """Read a count. Raises a `ValueError` that names the field."""
    if not (value.isdigit() and len(value) <= 10 and int(value) < _MOST):
        raise ValueError(f"{name} is {shown(value[:40])}")
    return int(value)


def job_entry(name: bytes, value: bytes) -> tuple[int, EntryId]:
    """Read a field of the pattern `JOBS`: the job's number and its entry id.

    Raises `ValueError` for what no script of ours wrote.
    """
    job = _JOB.fullmatch(name)
    if job is None or not EntryId.is_one(value):
        raise ValueError(f"{shown(name[:40])} is {shown(value[:40])}")
    return int(job[1]), EntryId.of(value)
