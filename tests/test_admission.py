"""A job is read when fewer sequences than the limit are admitted."""

from __future__ import annotations

import asyncio

from schemas import Envelope, ErrorCode
from worker.admission import Admission
from worker.errors import DataError
from worker.lease import Lease
from worker.rollout import Task


async def test_no_job_is_read_while_the_limit_is_reached() -> None:
    admission = Admission(limit=4)
    admission.admit(2, 6)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    assert not waiting.done()
    admission.release(1, 3)
    assert await waiting is True


async def test_closing_wakes_the_reader_and_tells_it_to_stop() -> None:
    admission = Admission(limit=1)
    admission.admit(1, 1)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.close()

    assert await waiting is False


async def test_its_state_can_be_read() -> None:
    admission = Admission(limit=4)
    admission.admit(1, 3)

    assert repr(admission) == "<Admission 3/4 sequences, 1 groups>"


def test_a_job_that_only_gets_error_answers_is_admitted_for_its_groups() -> None:
    """Else a worker whose Redis takes no answers would go on reading such jobs until its memory is full."""
    lease = Lease("jobs", "dead", "1-0", "w1", 1, ends_at=0.0)
    error = DataError(ErrorCode.UNREADABLE_JOB, "job", "no job")

    assert Task(lease, Envelope("b", 0, 0, 7, 7), error).sequences == 7
