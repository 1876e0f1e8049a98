"""A worker answers for the tokens that it sampled; those that it found in Redis were asked about when they went in."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GroupResult, Keys, Tensor
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.sampled_here import after
from rollstream.worker.errors import UnprovenError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.versions.proofs import Proofs
from tests.support.partials.parts import deliver, job_of


@pytest.mark.parametrize(
    ("spans", "brought", "expected"),
    [
        ([], 0, []),
        ([(3, 5)], 0, [(3, 5)]),
        ([(3, 5)], 2, [(3, 3)]),
        ([(3, 5)], 5, []),
        ([(3, 5), (4, 2)], 5, [(4, 2)]),
        ([(3, 5), (4, 2)], 6, [(4, 1)]),
        ([(3, 5), (4, 2), (6, 1)], 7, [(6, 1)]),
        ([(3, 5)], 9, []),
    ],
)
def test_what_others_sampled_is_left_out(spans: list[VersionSpan], brought: int, expected: list[VersionSpan]) -> None:
    assert after(spans, brought) == expected


def result(*spans: tuple[VersionSpan, ...], resumed_at: tuple[int, ...] = ()) -> GroupResult:
    lengths = np.array([sum(tokens for _, tokens in of_one) for of_one in spans], np.int32)
    width = int(lengths.max())
    return GroupResult(
        batch_id="b", group=0, prompt=Tensor.of(np.ones(1, np.int32)), lengths=Tensor.of(lengths),
        token_ids=Tensor.of(np.zeros((len(spans), width), np.int32)),
        response_mask=Tensor.of(np.arange(width) < lengths[:, None]), finish_reasons=tuple("length" for _ in spans),
        stop_reasons=(None,) * len(spans), version_spans=spans, worker="w", queued_s=0.0, generate_s=0.0,
        resumed_at=Tensor.of(np.array(resumed_at, np.int32)) if resumed_at else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "is_joined", "is_refused"),
    [
        (result(((0, 4),)), False, False),
        (result(((7, 4),)), False, True),
        (result(((7, 3), (0, 1)), resumed_at=(3,)), False, False),
        (result(((7, 3), (0, 1)), resumed_at=(2,)), False, True),
        (result(((0, 3), (7, 1)), resumed_at=(3,)), False, True),
        (result(((7, 4),), ((0, 2),)), True, False),
    ],
    ids=["its own", "of an unproven version", "gone on with", "a token too many", "gone on unproven", "put together"],
)
async def test_only_what_a_worker_sampled_itself_must_be_proven_by_it(
    redis: Redis, policy: str, answer: GroupResult, is_joined: bool, is_refused: bool
) -> None:
    proofs = Proofs()
    proofs.allow(0)
    keys, job = Keys(policy), job_of()
    lease = await deliver(redis, keys, job)
    publisher = AnswerPublisher(
        redis=redis, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=proofs.check
    )

    with pytest.raises(UnprovenError) if is_refused else nullcontext():
        assert await publisher.publish(lease, Envelope.of_job(job), answer, is_joined=is_joined) == "published"
    assert await redis.xlen(keys.results("b")) == int(not is_refused)
    await redis.expire(keys.results("b"), 100)
