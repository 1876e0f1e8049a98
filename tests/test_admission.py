"""A job is read when less than the limits is admitted and nothing pauses admission."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from schemas import Envelope, ErrorCode, GenerationConfig, Job, Tensor
from worker.admission import Admission, Load
from worker.errors import DataError
from worker.lease import Lease
from worker.rollout import Task

LEASE = Lease("jobs", "dead", "1-0", "w1", 1, ends_at=0.0)


@pytest.mark.parametrize(
    ("load", "room"),
    [
        (Load(1, 3, 99), True),
        (Load(1, 4, 0), False),
        (Load(9, 0, 100), False),
        (Load(2, 6, 200), False),
        (Load(9, 3, 0), True),
    ],
)
def test_there_is_room_below_both_limits(load: Load, room: bool) -> None:
    admission = Admission(4, 100)

    admission.admit(load)

    assert admission.has_room is room


@pytest.mark.parametrize(("load", "part"), [(Load(2, 6, 0), Load(1, 3)), (Load(1, 1, 150), Load(nbytes=51))])
async def test_no_job_is_read_while_a_limit_is_reached(load: Load, part: Load) -> None:
    admission = Admission(4, 100)
    admission.admit(load)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    assert not waiting.done()
    admission.release(part)
    assert await waiting is True


async def test_no_job_is_read_while_there_is_a_reason_to_pause() -> None:
    admission = Admission(4, 100)
    admission.pause("memory")
    admission.pause("memory")
    admission.pause("operator")
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.resume("memory")
    await asyncio.sleep(0)
    assert (waiting.done(), admission.has_room, admission.paused) == (False, False, frozenset({"operator"}))

    admission.resume("operator")
    admission.resume("operator")
    assert await waiting is True
    assert admission.has_room


async def test_room_that_went_before_its_reader_woke_is_waited_for_again() -> None:
    admission = Admission(4, 100)
    admission.pause("memory")
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.resume("memory")
    admission.admit(Load(1, 4))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("paused", [False, True])
async def test_closing_wakes_the_reader_and_tells_it_to_stop(paused: bool) -> None:
    admission = Admission(1, 1)
    admission.admit(Load(1, 1, 1))
    if paused:
        admission.pause("operator")
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.close()

    assert await waiting is False


async def test_its_state_can_be_read() -> None:
    admission = Admission(4, 100)
    admission.admit(Load(1, 3, 50))
    admission.pause("operator")
    admission.pause("memory")

    assert repr(admission) == "<Admission 3/4 sequences, 50/100 bytes, 1 groups, paused: memory, operator>"


def test_a_job_is_admitted_for_its_payload_and_what_its_answers_may_hold() -> None:
    job = Job(
        batch_id="b", job=0, first_group=0, num_groups=2, submitted_at=0.0,
        prompt_ids=Tensor.of(np.array([5, 6, 7], np.int32)), prompt_lengths=Tensor.of(np.array([1, 2], np.int32)),
        config=GenerationConfig(max_new_tokens=16, num_return_sequences=3),
    )  # fmt: skip

    task = Task(LEASE, Envelope("b", 0, 0, 2, 2), job, nbytes=1000)

    ids_logprobs_and_mask = 4 * 16 + 4 * 16 + 16 // 8
    assert task.of_group == Load(1, 3, 3 * ids_logprobs_and_mask)
    assert task.load == Load(2, 6, 1000 + 6 * ids_logprobs_and_mask)


def test_a_job_that_only_gets_error_answers_is_admitted_for_its_groups() -> None:
    """Else a worker whose Redis takes no answers would go on reading such jobs until its memory is full."""
    error = DataError(ErrorCode.UNREADABLE_JOB, "job", "no job")

    assert Task(LEASE, Envelope("b", 0, 0, 7, 7), error, nbytes=10).load == Load(7, 7, 10)
