"""A proof compares log-probs, and says how far off they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.proofs.probe import Probe, Tolerance
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import DataError, ProofFailedError, UnprovableError
from rollstream.worker.requests import ScoreRequest, Scores
from rollstream.worker.versions.proof import check_fits, compared, proof_of, tolerance_of
from tests.support.weights.probes import stub_probe

INFO = StubEngine(WorkerSettings(policy="p", engine="stub")).info
STRICT = Tolerance(mean=0.01, largest=0.1)
FEW = ([5, 6, 7, 8], [9, 10, 11])


def known(probe: Probe) -> list[np.ndarray]:
    return [logprobs.copy() for _, logprobs in probe.rows]


def off_by(number: float, column: int = 0) -> Callable[[list[np.ndarray]], None]:
    def change(rows: list[np.ndarray]) -> None:
        rows[1][column] += number

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (off_by(0.2), "largest 0.2 nats off, at most 0.01 and 0.1 allowed (float32)"),
        (off_by(0.09), "mean 0.018, largest 0.09 nats off"),
        (off_by(float("nan")), "mean nan"),
        (off_by(float("-inf")), "largest inf"),
        (lambda rows: rows.pop(), "the engine gave 3 log-probs for 5"),
    ],
)
def test_log_probs_that_are_too_far_off_or_no_numbers_fail_and_are_named(
    change: Callable[[list[np.ndarray]], None], says: str
) -> None:
    probe = stub_probe(7, tolerance=STRICT, rows=FEW)
    rows = known(probe)
    change(rows)

    with pytest.raises(ProofFailedError) as refused:
        compared(probe, 7, rows, "float32")

    assert "version 7 does not reproduce its probe" in str(refused.value)
    assert says in str(refused.value)


def test_a_proof_says_how_close_it_came() -> None:
    probe = stub_probe(7, tolerance=STRICT, rows=FEW)
    rows = known(probe)
    rows[0][0] -= 0.04

    proof = compared(probe, 7, rows, "float32")

    assert (round(proof.mean, 4), round(proof.largest, 4)) == (0.008, 0.04)
    assert str(proof) == "mean 0.008, largest 0.04 nats off (5 tokens in 2 rows, float32)"


@pytest.mark.parametrize(
    ("own", "dtype", "largest"),
    [(STRICT, "bfloat16", 0.1), (None, "bfloat16", 2.0), (None, "float32", 0.05), (None, "float8", 0.05)],
)
def test_the_tolerance_is_the_probes_own_or_that_of_the_dtype(
    own: Tolerance | None, dtype: str, largest: float
) -> None:
    assert tolerance_of(stub_probe(7, tolerance=own), dtype).largest == largest


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (stub_probe(7, vocab_size=31_000), "for a vocabulary of 31000 ids, this model has 32000"),
        (stub_probe(7, rows=([5] * 4097,)), "a row has 4097 tokens, and this worker scores rows of at most 4096"),
    ],
)
def test_a_probe_that_the_engine_cannot_score_is_refused_by_name(probe: Probe, says: str) -> None:
    with pytest.raises(UnprovableError, match=f"version 7 cannot be proven here: .*{says}"):
        check_fits(probe, 7, INFO)


def test_a_row_that_leaves_room_for_one_more_token_fits() -> None:
    check_fits(stub_probe(7, rows=([5] * 4096,)), 7, INFO)


async def test_a_row_that_the_engine_refuses_fails_the_proof_and_ends_the_others() -> None:
    others: list[asyncio.Task[object] | None] = []

    async def score(request: ScoreRequest) -> Scores:
        if request.request_id.endswith("-1"):
            raise DataError(ErrorCode.TOO_LONG, "logprobs", "they are not finite")
        others.append(asyncio.current_task())
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ProofFailedError, match="could not score it: they are not finite"):
        await proof_of(stub_probe(7), 7, INFO, score)

    assert [task is not None and task.cancelling() for task in others] == [1]
