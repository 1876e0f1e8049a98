"""What vLLM could not load as a whole is taken out of it, and not tried again while its files stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.loaded_adapters import LoadedAdapters
from rollstream.worker.errors import DataError, EngineDiedError
from rollstream.worker.requests import Adapter


class Calls:
    """What an engine is asked to do, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.forgets = True

    async def add(self, adapter: Adapter) -> None:
        self.asked.append(f"add {adapter.name}")
        if self.error is not None:
            raise self.error

    async def remove(self, adapter: Adapter) -> None:
        self.asked.append(f"remove {adapter.name}")

    async def forget(self, adapter: Adapter, _why: Exception) -> None:
        self.asked.append(f"forget {adapter.name}")
        if not self.forgets:
            raise EngineDiedError("it stays")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def adapters(calls: Calls) -> LoadedAdapters:
    return LoadedAdapters(add=calls.add, remove=calls.remove, forget=calls.forget)


@pytest.fixture
def adapter(adapter_dir: Path, tmp_path: Path) -> Adapter:
    return Adapter(name="math@1", int_id=1, path=Path(shutil.copytree(adapter_dir / "math@1", tmp_path / "math@1")))


async def test_whatever_a_load_raises_the_adapter_is_taken_out(
    adapters: LoadedAdapters, calls: Calls, adapter: Adapter
) -> None:
    calls.error = Exception(f"cannot put {adapter.path} in its place")

    with pytest.raises(DataError, match="cannot put math@1 in its place"):
        await adapters.load(adapter)

    assert (calls.asked, len(adapters)) == (["add math@1", "forget math@1"], 0)


async def test_what_does_not_fit_is_not_tried_again_until_its_files_change(
    adapters: LoadedAdapters, calls: Calls, adapter: Adapter
) -> None:
    calls.error = DataError(ErrorCode.ADAPTER_REFUSED, "adapter", "no layer takes it")
    for _ in range(3):
        with pytest.raises(DataError, match="no layer takes it"):
            await adapters.load(adapter)
    assert calls.asked == ["add math@1", "forget math@1"]

    calls.error = None
    (adapter.path / "adapter_config.json").write_text("{}")
    await adapters.load(adapter)

    assert calls.asked[2:] == ["add math@1"]


async def test_an_engine_that_may_still_have_half_of_it_is_dead(
    adapters: LoadedAdapters, calls: Calls, adapter: Adapter
) -> None:
    calls.error, calls.forgets = Exception("half of it"), False

    with pytest.raises(EngineDiedError, match="it stays"):
        await adapters.load(adapter)


async def test_one_that_a_request_uses_is_not_unloaded(
    adapters: LoadedAdapters, calls: Calls, adapter: Adapter
) -> None:
    await adapters.load(adapter)
    with adapters.in_use("request", adapter):
        await adapters.unload(adapter)
        assert (calls.asked, len(adapters)) == (["add math@1"], 1)

    await adapters.unload(adapter)

    assert (calls.asked[1:], len(adapters)) == (["remove math@1"], 0)
