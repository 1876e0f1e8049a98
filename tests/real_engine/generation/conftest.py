"""One engine and its adapters for all tests of this folder."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pytest
import pytest_asyncio

from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter
from tests.support.engine.engine_requests import ON_GPU, settings
from tests.support.engine.transformers_reference import Reference


@pytest.fixture(scope="package")
def walked() -> dict[str, int]:
    """What a collection of garbage walks and leaves out once the engine has started."""
    return {}


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def engine(tiny_model: Path, adapter_dir: Path, walked: dict[str, int]) -> AsyncIterator[VllmEngine]:
    folder = None if ON_GPU else adapter_dir  # vLLM's LoRA on a GPU takes no float32
    engine = VllmEngine(settings(tiny_model, folder, thinking_marks="[ ]"))
    await engine.start()
    walked.update(objects=len(gc.get_objects()), left_out=gc.get_freeze_count())
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def adapters(engine: VllmEngine, tiny_model: Path, adapter_dir: Path) -> dict[str | None, Adapter | None]:
    """Loaded, by name; None is the base model."""
    if ON_GPU:
        pytest.skip("on a GPU these tests compare float32, in which vLLM loads no adapter there")
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model)
    found = [directory.find(name) for name in ("math@1", "math@2", "code@1")]
    for adapter in found:
        await engine.load_adapter(adapter)
    return {None: None, **{adapter.name: adapter for adapter in found}}


@pytest.fixture(scope="package")
def reference(tiny_model: Path, adapter_dir: Path) -> Callable[[str | None], Reference]:
    return cache(lambda name: Reference(tiny_model, None if name is None else adapter_dir / name))
