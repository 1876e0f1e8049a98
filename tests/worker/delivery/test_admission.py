"""A job is read when less than the limits is admitted and nothing pauses admission."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import Envelope, ErrorCode, GenerationConfig, Job, Tensor, Turn
from rollstream.schemas.pause_reason import PauseReason
from rollstream.schemas.wire.images import ImageRef
from rollstream.schemas.wire.sizes.result_size import result_bytes
from rollstream.worker.delivery.admission import Admission, Claim, Load
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.admitted_job import AdmittedJob, Sizes, load_of

LEASE = Lease(jobs_key="jobs", dead_key="dead", entry_id="1-0", consumer="w1", delivery=1, ends_at=0.0)
ONE = Load(groups=1, sequences=1)


def opened(admission: Admission, groups: int, each: Load = ONE, payload: int = 0) -> Claim:
    """A job that was taken and opened, without a ready group."""
    claim = admission.hold(payload)
    admission.expect(claim, groups, each)
    return claim


def ready(admission: Admission, groups: int, each: Load = ONE, payload: int = 0) -> Claim:
    """A job whose groups take all places that they are given."""
    claim = opened(admission, groups, each, payload)
    admission.queue(claim)
    return claim


@pytest.mark.parametrize(
    ("groups", "each", "payload", "room"),
    [
        (1, Load(groups=1, sequences=3), 99, True),
        (1, Load(groups=1, sequences=4), 0, False),
        (4, ONE, 0, False),
        (1, ONE, 100, False),
        (2, Load(groups=1, sequences=3), 200, False),
        (3, ONE, 0, True),
        (1, Load(groups=1, sequences=1, nbytes=1000), 0, True),
    ],
    ids=str,
)
def test_there_is_room_below_both_limits_by_payloads_and_sequences_of_all_groups(
    groups: int, each: Load, payload: int, room: bool
) -> None:
    admission = Admission(limit=4, limit_bytes=100)

    opened(admission, groups, each, payload)

    assert admission.has_room is room


async def test_no_job_is_read_while_a_limit_is_reached() -> None:
    admission = Admission(limit=4, limit_bytes=100)
    jobs = [ready(admission, 2, Load(groups=1, sequences=2)), opened(admission, 1, payload=100)]
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.let_go(jobs[1])
    await asyncio.sleep(0)
    assert not waiting.done()
    await admission.place(jobs[0])
    admission.leave(jobs[0], Load(groups=1, sequences=2))
    assert await waiting is True


async def test_no_job_is_read_while_there_is_a_reason_to_pause() -> None:
    admission = Admission(limit=4, limit_bytes=100)
    admission.set_paused(PauseReason.MEMORY, on=True)
    admission.set_paused(PauseReason.MEMORY, on=True)
    admission.set_paused(PauseReason.OPERATOR, on=True)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.set_paused(PauseReason.MEMORY, on=False)
    await asyncio.sleep(0)
    assert (waiting.done(), admission.has_room, admission.paused) == (False, False, frozenset({"operator"}))

    admission.set_paused(PauseReason.OPERATOR, on=False)
    admission.set_paused(PauseReason.OPERATOR, on=False)
    assert await waiting is True
    assert admission.has_room


async def test_room_that_went_before_its_reader_woke_is_waited_for_again() -> None:
    admission = Admission(limit=4, limit_bytes=100)
    admission.set_paused(PauseReason.MEMORY, on=True)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.set_paused(PauseReason.MEMORY, on=False)
    opened(admission, 4)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("paused", [False, True])
async def test_closing_wakes_the_reader_and_tells_it_to_stop(paused: bool) -> None:
    admission = Admission(limit=1, limit_bytes=1)
    opened(admission, 1, payload=1)
    if paused:
        admission.set_paused(PauseReason.OPERATOR, on=True)
    waiting = asyncio.create_task(admission.room())
    await asyncio.sleep(0)

    admission.close()

    assert await waiting is False


async def test_its_state_can_be_read() -> None:
    admission = Admission(limit=4, limit_bytes=100)
    ready(admission, 5, Load(groups=1, sequences=3, nbytes=10), payload=50)
    admission.set_paused(PauseReason.OPERATOR, on=True)
    admission.set_paused(PauseReason.MEMORY, on=True)

    assert repr(admission) == (
        "<Admission 6/4 sequences, 70/100 bytes, 2 groups, 3 waiting, 1 jobs, paused: memory, operator>"
    )


def job_of(groups: int, **config: Any) -> Job:
    return Job(
        batch_id="b", job=0, first_group=0, num_groups=groups, submitted_at=0.0,
        prompt_ids=Tensor.of(np.ones(groups, np.int32)), prompt_lengths=Tensor.of(np.ones(groups, np.int32)),
        config=GenerationConfig(**config),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sequences"),
    [({}, 1), ({"num_return_sequences": 3}, 3), ({"num_beams": 4, "num_return_sequences": 2}, 4)],
    ids=str,
)
def test_a_group_takes_its_sequences_and_what_their_answers_may_hold(config: dict[str, Any], sequences: int) -> None:
    admitted = AdmittedJob(
        lease=LEASE,
        envelope=Envelope(batch_id="b", job=0, first_group=0, job_groups=2, num_groups=2),
        job=job_of(2, max_new_tokens=16, **config),
        claim=Admission(limit=1).hold(0),
    )

    ids_logprobs_and_mask = 4 * 16 + 4 * 16 + 16 // 8
    assert admitted.of_group == Load(
        groups=1, sequences=sequences, nbytes=sequences * ids_logprobs_and_mask, tokens=sequences * 16
    )
    assert admitted.of_group.nbytes == result_bytes(GenerationConfig(max_new_tokens=16, **config))


IMAGE = ImageRef(sha256="0" * 64, nbytes=10, format="png", width=100, height=100)
SIZES = Sizes(row_bytes=8, max_model_len=1000)


@pytest.mark.parametrize(
    "longer", [{"images": ((IMAGE,), ())}, {"continue_of": (Turn(batch_id="a", group=0, sample=0), None)}], ids=str
)
def test_a_prompt_counts_as_long_as_it_may_become_until_it_is_known(longer: dict[str, Any]) -> None:
    config: dict[str, Any] = {"max_new_tokens": 16, "num_return_sequences": 2, "routed_experts": True}
    plain = job_of(2, **config)
    job = plain.model_copy(update=longer)

    told = [load_of(plain, SIZES).nbytes, *(load_of(job, SIZES, known).nbytes for known in (None, 1, 300))]

    of_answer = result_bytes(GenerationConfig(**config))
    assert told == [
        of_answer + 2 * 8 * 16,
        of_answer + 4 * 983 + 2 * 8 * (984 + 15),
        of_answer + 2 * 8 * 16,
        of_answer + 4 * 299 + 2 * 8 * (300 + 15),
    ]


async def test_what_a_group_does_not_need_goes_to_others_before_it_ends() -> None:
    admission = Admission(limit=8, limit_bytes=100)
    claim, each = admission.hold(0), Load(groups=1, sequences=1, nbytes=90)
    admission.expect(claim, 3, each)
    admission.queue(claim)
    await admission.place(claim)
    await admission.place(claim)
    assert admission.is_full

    admission.leave(claim, Load(nbytes=85), ran=False)

    assert (admission.load.nbytes, admission.load.groups, admission.ended) == (185, 3, 0)
    admission.vacate(claim)
    assert admission.load == Load()


def test_a_group_that_only_gets_an_error_answer_counts_as_a_sequence() -> None:
    """Otherwise a worker whose Redis takes no answers would read such jobs until its memory is full."""
    error = DataError(ErrorCode.UNREADABLE_JOB, "job", "no job")

    assert AdmittedJob(
        lease=LEASE,
        envelope=Envelope(batch_id="b", job=0, first_group=0, job_groups=7, num_groups=7),
        job=error,
        claim=Admission(limit=1).hold(0),
    ).of_group == Load(groups=1, sequences=1)
