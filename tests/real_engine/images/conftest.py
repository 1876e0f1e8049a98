"""One engine for the tests of this folder, of a model that takes images."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rollstream.worker.engines.vllm.engine import VllmEngine
from tests.support.engine.engine_requests import ON_GPU, end, settings
from tests.support.engine.vision_models import VisionReference, write_vision_adapter, write_vision_model


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("vision") / "boot")


@pytest.fixture(scope="package")
def adapters(model: Path) -> Path:
    folder = model.parent / "adapters"
    write_vision_adapter(model, folder / "look@1")
    return folder


@pytest.fixture(scope="package")
def reference(model: Path) -> VisionReference:
    return VisionReference(model)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def engine(model: Path, adapters: Path) -> AsyncIterator[VllmEngine]:
    fields = {"max_model_len": 512, "max_images": 3}
    engine = VllmEngine(settings(model, None if ON_GPU else adapters, **fields))
    await engine.start()
    yield engine
    await end(engine)
