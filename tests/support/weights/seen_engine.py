"""A stub engine that notes what it was asked, to be one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollstream import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Adapter, Completion, Expanded, GenerateRequest, NextTokens
from rollstream.worker.weights.checkpoint import Content


def settings(**fields: Any) -> WorkerSettings:
    return WorkerSettings(policy="test", engine="stub", stub_vocab_size=1000, **{"max_num_seqs": 8, **fields})


class Seen(StubEngine):
    """A stub that notes what it was asked, and fails where it is told to."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(settings(**fields))
        self.started = self.closed = False
        self.prompts: list[list[int]] = []
        self.adapters: set[str] = set()
        self.loaded: list[Path] = []
        self.prepared: list[Path] = []
        self.fails: Exception | None = None
        self.paused_s = 0.0

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.prompts.append(request.prompt)
        return await super().generate(request)

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        self.prompts.append(prompt)
        return await super().next_tokens(request_id, prompt, k, adapter, images)

    async def load_adapter(self, adapter: Adapter) -> None:
        if self.fails is not None:
            raise self.fails
        self.adapters.add(adapter.name)

    async def unload_adapter(self, adapter: Adapter) -> None:
        self.adapters.discard(adapter.name)

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        if self.fails is not None:
            raise self.fails
        await super().load_checkpoint(version, path, mode, content, prove)
        self.loaded.append(path)
        return self.paused_s

    async def prepare(self, path: Path, content: Content) -> None:
        await super().prepare(path, content)
        self.prepared.append(path)

    async def check(self) -> None:
        if self.fails is not None:
            raise self.fails
        await super().check()


def request(name: str, n: int = 1, tokens: int = 4, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(max_new_tokens=tokens, num_return_sequences=n, ignore_eos=True, **fields)
    return GenerateRequest(
        request_id=name,
        prompt=[5, int(name.rpartition("/")[2])],
        config=config,
        stop_token_ids=(),
        seed=None,
        adapter=None,
    )
