"""Probes of the stub engine's versions, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import encode
from rollstream.schemas.wire.proofs.probe import Probe, Tolerance
from rollstream.schemas.wire.tensors import Tensor
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Adapter, ScoreRequest, Scores

ROWS = (list(range(5, 17)), list(range(9, 15)))
"""As few tokens as are taken for a probe."""


def probe_of(
    rows: Sequence[list[int]],
    logprobs: Sequence[NDArray[np.floating[Any]]],
    vocab_size: int,
    tolerance: Tolerance | None = None,
) -> Probe:
    """`logprobs`: those of each row's tokens but the first."""
    return Probe(
        token_ids=Tensor.of(np.array([token for row in rows for token in row], np.int32)),
        row_lengths=Tensor.of(np.array([len(row) for row in rows], np.int32)),
        logprobs=Tensor.of(np.minimum(np.concatenate(logprobs), 0).astype(np.float32)),
        vocab_size=vocab_size,
        tolerance=tolerance,
    )


def stub_probe(
    version: int,
    *,
    off: float = 0.0,
    rows: tuple[list[int], ...] = ROWS,
    vocab_size: int = 32_000,
    adapter: Adapter | None = None,
    tolerance: Tolerance | None = None,
) -> Probe:
    """What the stub scores under this version, each log-prob `off` by so many nats."""
    engine = StubEngine(WorkerSettings(policy="p", engine="stub"))
    requests = [ScoreRequest(request_id="p", token_ids=row, first=1, top_logprobs=0, adapter=adapter) for row in rows]
    known = [engine._scores(request, version).logprobs - off for request in requests]
    return probe_of(rows, known, vocab_size, tolerance)


class WrongEngine(StubEngine):
    """A stub whose weights are others than those of its version."""

    def _scores(self, request: ScoreRequest, version: int) -> Scores:
        return super()._scores(request, version + 77)


def one_wrong(settings: WorkerSettings) -> Replicas:
    """Engines of which the last alone has wrong weights."""
    return Replicas([StubEngine(settings), WrongEngine(settings)])


def write_probe(path: Path, probe: Probe) -> Path:
    path.write_bytes(encode(probe))
    return path
