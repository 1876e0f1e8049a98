"""Whether loaded weights reproduce the probe that their version was published with. Pure, but for the scores asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.proofs.probe import TOLERANCES, Probe, Tolerance

from ..engine import Engine, EngineInfo, Score
from ..errors import DataError, ProofFailedError, UnprovableError
from ..requests import Adapter, ScoreRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How close the worker's log-probs came to the trainer's, in nats."""

    mean: float
    """Mean of the absolute differences."""
    largest: float
    rows: int
    tokens: int
    """How many log-probs were compared."""
    dtype: str
    """The data type in which the engine computes."""
    experts: tuple[int, int] | None = None
    """How many experts of a mixture the probe reached, and how many there are, layer by layer; None if unknown."""

    def __str__(self) -> str:
        of = f"{self.tokens} tokens in {self.rows} row{'' if self.rows == 1 else 's'}"
        reached = "" if self.experts is None else ", {} of {} experts reached".format(*self.experts)
        return f"mean {self.mean:.2g}, largest {self.largest:.2g} nats off ({of}, {self.dtype}{reached})"


def check_fits(probe: Probe, version: int, info: EngineInfo) -> None:
    """Raises `UnprovableError` for a probe that this engine cannot score; nothing was loaded for it yet."""
    if probe.vocab_size != info.vocab_size:
        problem = f"it is for a vocabulary of {probe.vocab_size} ids, this model has {info.vocab_size}"
        raise UnprovableError(version, problem)
    longest, most = max(len(ids) for ids, _ in probe.rows), info.max_model_len
    if longest > most:
        problem = f"a row has {longest} tokens, and this worker scores rows of at most {most} (--max-model-len)"
        raise UnprovableError(version, problem)


def tolerance_of(probe: Probe, dtype: str) -> Tolerance:
    """The probe's own, or that of the data type; an unknown one is trusted no more than float32."""
    return probe.tolerance or TOLERANCES.get(dtype, TOLERANCES["float32"])


def compared(probe: Probe, version: int, found: Sequence[NDArray[np.float32]], dtype: str) -> Proof:
    """The proof that `found`, the log-probs of each row's tokens but the first, are those of the probe.

    Raises `ProofFailedError` where they are too far off, or no numbers.
    """
    tolerance, known = tolerance_of(probe, dtype), [logprobs for _, logprobs in probe.rows]
    if [len(row) for row in found] != [len(row) for row in known]:
        raise ProofFailedError(version, f"the engine gave {sum(map(len, found))} log-probs for {sum(map(len, known))}")
    off = np.abs(np.concatenate(found).astype(np.float64) - np.concatenate(known))
    mean, largest = float(off.mean()), float(off.max())
    if not (mean <= tolerance.mean and largest <= tolerance.largest):  # so that NaN fails
        allowed = f"at most {tolerance.mean:g} and {tolerance.largest:g} allowed ({dtype})"
        raise ProofFailedError(version, f"mean {mean:.3g}, largest {largest:.3g} nats off, {allowed}", mean, largest)
    return Proof(mean=mean, largest=largest, rows=len(known), tokens=len(off), dtype=dtype)


async def proof_of(probe: Probe, version: int, info: EngineInfo, score: Score, adapter: Adapter | None = None) -> Proof:
    """Score the probe and compare. Raises `ProofFailedError`, `EngineDiedError`."""
    requests = [
        ScoreRequest(request_id=f"probe-{version}-{row}", token_ids=ids, first=1, top_logprobs=0, adapter=adapter)
        for row, (ids, _) in enumerate(probe.rows)
    ]
    try:
        found = await _all(requests, score)
    except DataError as error:
        raise ProofFailedError(version, f"the engine could not score it: {error}") from error
    return compared(probe, version, found, info.dtype)


async def proof_by_each(probe: Probe, version: int, engine: Engine, adapter: Adapter | None = None) -> Proof:
    """Let each engine of which `engine` is made score the probe. Returns the worst proof, raises as `proof_of` does."""
    proofs = [await proof_of(probe, version, one.info, one.score, adapter) for one in engine.each()]
    return max(proofs, key=lambda proof: proof.mean)


async def _all(requests: Iterable[ScoreRequest], score: Score) -> list[NDArray[np.float32]]:
    async def one(request: ScoreRequest) -> NDArray[np.float32]:
        return (await score(request)).logprobs

    rows = [asyncio.create_task(one(request)) for request in requests]
    try:
        return await asyncio.gather(*rows)
    finally:
        for row in rows:  # the first error ends all of them
            row.cancel()
