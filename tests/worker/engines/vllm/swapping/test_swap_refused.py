"""A model in which a swap may leave old weights behind is never swapped: vLLM is not even paused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.calls import Calls
from rollstream.worker.engines.vllm.loaded_adapters import LoadedAdapters
from rollstream.worker.engines.vllm.swapping.new_weights import Weights
from rollstream.worker.engines.vllm.swapping.proving import Prover
from rollstream.worker.engines.vllm.swapping.swap import Swapper
from rollstream.worker.engines.vllm.version_spans import Versions
from rollstream.worker.errors import CheckpointRefusedError
from rollstream.worker.requests import ScoreRequest, Scores
from rollstream.worker.weights import checkpoint

DOUBT = "its layer mlp is quantised or packed (Fp8MoEMethod)"


class Asked:
    """Answers what is asked of vLLM's processes, and takes no other call."""

    def __init__(self, *doubts: str) -> None:
        self._doubts = doubts
        self.calls: list[str] = []

    async def collective_rpc(self, method: str) -> list[Any]:
        self.calls.append(method)
        return [(True, doubt) for doubt in self._doubts]


async def nothing(*_: Any) -> None: ...


async def unscored(request: ScoreRequest, version: int) -> Scores:
    raise NotImplementedError


def swapper(llm: Asked, folder: Path) -> Swapper:
    calls = Calls(dead=ConnectionError, step_limit_s=5, load_limit_s=5)
    return Swapper(
        llm=llm,
        calls=calls,
        prover=Prover(llm=llm, calls=calls, score=unscored),
        booted=Weights(folder=folder, content=checkpoint.read_content(folder)),
        adapters=LoadedAdapters(add=nothing, remove=nothing, forget=nothing),
        versions=Versions(),
        stage_limit_s=5,
    )


@pytest.mark.parametrize("doubts", [(DOUBT,), ("", DOUBT)], ids=["one process", "the second process"])
async def test_a_doubt_of_any_process_refuses_every_swap(tmp_path: Path, doubts: tuple[str, ...]) -> None:
    folder = write_model(tmp_path / "step-1", tokenizer=False)
    llm = Asked(*doubts)
    refusing = swapper(llm, folder)
    assert await refusing.look() == DOUBT

    with pytest.raises(CheckpointRefusedError, match=r"no swap: its layer mlp is quantised.*publish adapters"):
        await refusing.swap(1, folder, "keep", None)

    assert llm.calls == ["rollstream_swappable"]
