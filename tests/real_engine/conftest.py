"""Workers on the real engine that the files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine.real_workers import RealWorkers


@pytest.fixture(scope="package")
def real_workers(redis_url: str, tiny_model: Path, adapter_dir: Path) -> Iterator[RealWorkers]:
    """Workers of the tiny model and its adapters; all serve `REAL_POLICY`.

    They end with this folder's tests: other tests ask what Redis does for anybody, such as whether a read waits.
    """
    with RealWorkers(redis_url, tiny_model, adapter_dir) as workers:
        yield workers
