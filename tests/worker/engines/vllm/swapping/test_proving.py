"""What proves itself is alone in the engine, and after a failed proof the old weights are looked at too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode
from rollstream.worker.engine import Score
from rollstream.worker.engines.vllm.calls import Calls
from rollstream.worker.engines.vllm.swapping.proving import Prover
from rollstream.worker.errors import DataError, EngineDiedError, ProofFailedError
from rollstream.worker.requests import ScoreRequest, Scores

ROW = ScoreRequest(request_id="probe", token_ids=[5, 6, 7], first=1, top_logprobs=0, adapter=None)


class Llm:
    """Notes what it is asked, and answers for a mixture of 8 experts."""

    def __init__(self, *, doubt: str = "", data_parallel_size: int = 1) -> None:
        self.calls: list[Any] = []
        self.rows: list[list[int]] = []
        self.doubt = doubt
        self.engine_core = self
        self.logprob = -1.0
        self.finite = True
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(pipeline_parallel_size=1, data_parallel_size=data_parallel_size),
            model_config=SimpleNamespace(dtype="torch.float32", max_model_len=50, get_vocab_size=lambda: 9),
        )

    async def call_utility_async(self, method: str, *_: Any) -> Any:
        self.calls.append(method)
        return self.doubt if method == "rollstream_hold_doubt" else None

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        self.calls.append((method, *args))
        return [{"rollstream_mixes_experts": True, "rollstream_experts_reached": [7, 8]}.get(method)]

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def is_sleeping(self) -> bool:
        return False

    async def score(self, request: ScoreRequest, version: int) -> Scores:
        self.calls.append(("score", version))
        self.rows.append(request.token_ids)
        if request.token_ids[0] < 0 or not self.finite:
            raise DataError(ErrorCode.ENGINE_REFUSED, "input_ids", "too long")
        if not request.token_ids[0] and len(request.token_ids) == 3:
            await asyncio.sleep(60)
        nothing = np.empty((2, 0), np.float32)
        logprobs = np.full(2, self.logprob, np.float32)
        return Scores(logprobs=logprobs, top_token_ids=nothing.astype(np.int32), top_logprobs=nothing, version=version)


async def prover(llm: Llm) -> Prover:
    made = Prover(llm=llm, calls=Calls(dead=ConnectionError, step_limit_s=5, load_limit_s=0.2), score=llm.score)
    await made.look()
    llm.calls.clear()
    return made


def of(*first: int) -> Any:
    async def prove(score: Score) -> None:
        for token in first:
            await score(ScoreRequest(request_id="r", token_ids=[token, 6, 7], first=1, top_logprobs=0, adapter=None))

    return prove


async def test_requests_are_held_before_the_engine_goes_on_with_a_probe() -> None:
    llm = Llm()
    proving = await prover(llm)

    await proving.prove(4, of(5, 6))
    assert proving.holding
    await proving.release()
    await proving.release()

    assert llm.calls == [
        "rollstream_hold", ("rollstream_watch_experts",), "resume", ("score", 4), ("score", 4),
        ("rollstream_experts_reached", 6), "rollstream_release",
    ]  # fmt: skip
    assert (proving.holding, proving.experts_reached) == (False, (7, 8))


@pytest.mark.parametrize(
    ("llm", "says"),
    [
        (Llm(doubt="this vLLM cannot hold requests back"), "was not loaded: this vLLM cannot hold requests back"),
        (Llm(data_parallel_size=2), "cannot be held back with data parallelism"),
    ],
)
async def test_an_engine_that_cannot_hold_requests_back_proves_nothing(llm: Llm, says: str) -> None:
    with pytest.raises(ProofFailedError, match=says):
        (await prover(llm)).check(4)


async def test_a_row_that_cannot_be_scored_is_a_failed_proof_and_one_that_hangs_the_engines_death() -> None:
    proving = await prover(Llm())

    with pytest.raises(ProofFailedError, match=r"version 4 .*it cannot be scored: too long"):
        await proving.prove(4, of(-1))
    with pytest.raises(EngineDiedError, match=r"a probe not scored in 0\.2 s"):
        await proving.prove(4, of(0))


async def test_a_proof_that_is_given_up_is_an_error_and_not_the_end_of_the_swap() -> None:
    async def give_up(_: Score) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="it was given up"):
        await (await prover(Llm())).prove(4, give_up)


async def test_old_weights_are_what_they_were_if_their_own_proof_gives_the_same() -> None:
    llm = Llm()
    proving = await prover(llm)
    await proving.confirm(0)  # nothing was proven
    assert not llm.calls
    await proving.prove(4, of(5, 6))
    with pytest.raises(ProofFailedError):
        await proving.prove(5, of(-1))
    llm.calls.clear()

    await proving.confirm(4)
    assert llm.calls == ["resume", ("score", 4), ("score", 4)]

    llm.logprob = -1.01
    with pytest.raises(RuntimeError, match=r"their log-probs are 0\.01 nats off"):
        await proving.confirm(4)
    proving.forget()
    await proving.confirm(4)


async def test_weights_that_were_not_proven_are_known_again_by_rows_that_were_scored_before_a_swap() -> None:
    llm = Llm()
    proving = await prover(llm)
    assert not proving.knows

    await proving.note(3)
    assert proving.knows
    assert proving.holding
    assert llm.calls == ["rollstream_hold", "resume", *[("score", 3)] * 3]
    asked, llm.rows = llm.rows, []
    assert [len(row) for row in asked] == [49] * 3
    assert {token for row in asked for token in row} == set(range(9))

    await proving.confirm(3)
    assert llm.rows == asked
    llm.logprob = -1.01
    with pytest.raises(RuntimeError, match=r"their log-probs are 0\.01 nats off"):
        await proving.confirm(3)


async def test_weights_without_finite_log_probs_hinder_no_swap_and_are_not_known_again() -> None:
    llm = Llm()
    llm.finite = False
    proving = await prover(llm)

    await proving.note(3)
    await proving.confirm(3)

    assert not proving.knows
