"""One engine and four sets of weights for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pytest
import pytest_asyncio

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter
from tests.real_engine.weight_swap.steps import settings
from tests.support.engine.engine_requests import end
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.harmful_reload import with_harm


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four sets of weights of one model; the engine boots with the first."""
    root = tmp_path_factory.mktemp("tied")
    return [write_model(root / f"step-{seed}", seed=seed + 30, tied=True, tokenizer=False) for seed in range(4)]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def engine(models: list[Path], adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        # oneDNN keeps code and buffers of 1024 shapes, which looks like a leak for as long as new shapes come.
        patch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
        with_harm(patch)
        engine = VllmEngine(settings(models[0], adapter_dir))
        await engine.start()
    yield engine
    await end(engine)


@pytest.fixture(scope="package")
def reference(adapter_dir: Path) -> Callable[..., Reference]:
    return cache(lambda model, name=None: Reference(model, None if name is None else adapter_dir / name))


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def adapters(engine: VllmEngine, adapter_dir: Path, models: list[Path]) -> dict[str, Adapter]:
    """Loaded."""
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=models[0])
    found = {name: directory.find(name) for name in ("math@1", "math@2")}
    for adapter in found.values():
        await engine.load_adapter(adapter)
    return found
