"""An adapter is proven before it is served, by each engine of its worker."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import ProofFailedError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Adapter
from rollstream.worker.versions.announced import BOOTED, Announced
from rollstream.worker.versions.loader import VersionLoader
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.versions.served import Ready, Served
from rollstream.worker.weights.contents import Contents
from tests.support.weights.probes import one_wrong, stub_probe

SETTINGS = WorkerSettings(policy="p", engine="stub")
ADAPTER = Adapter(name="math@1", int_id=1, path=Path("math@1"))


class OneAdapter:
    """Supplies it under any name."""

    def in_use(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    async def load(self, *_: str) -> Adapter:
        return ADAPTER


async def prepared(engine: Engine) -> Ready:
    supply: Any = OneAdapter()
    loader = VersionLoader(
        engine=engine,
        adapters=supply,
        checkpoints=CheckpointSupply(folder=None),
        rounds=None,
        proofs=Proofs(),
        contents=Contents(),
        swap="keep",
        measures=Measures(),
    )
    probe = stub_probe(0, rows=([5, 6, 7, 8],), adapter=ADAPTER)
    announced = Announced(version=3, source="adapter", location=ADAPTER.name, probe=probe)
    return await loader.prepare(announced, Served(announced=BOOTED), (), staged=False)


async def test_each_engine_of_a_worker_proves_an_adapter() -> None:
    ready = await prepared(Replicas([StubEngine(SETTINGS), StubEngine(SETTINGS)]))
    assert ready.proof is not None

    with pytest.raises(ProofFailedError):
        await prepared(one_wrong(SETTINGS))
