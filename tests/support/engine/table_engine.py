"""An engine whose log-probs are a table, for beam searches that can be done by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollstream.worker.engine import Collector, EngineInfo
from rollstream.worker.requests import (
    Adapter,
    Completion,
    Expanded,
    GenerateRequest,
    KvUse,
    NextTokens,
    Partial,
    Picture,
    ScoreRequest,
    Scores,
)

VOCAB, EOS = 5, 0


def answer(*candidates: tuple[int, float], version: int = 0, exact: bool = True) -> NextTokens:
    return NextTokens(candidates=candidates, version=version, version_exact=exact)


class TableEngine:
    """An engine of `vocab` ids: the next token depends on the last one and the position, nothing else."""

    def __init__(self, seed: int, vocab: int = VOCAB) -> None:
        generator = np.random.default_rng(seed)
        logits = generator.normal(scale=1.5, size=(16, vocab, vocab))
        self.table: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.asked: list[tuple[str, int, Adapter | None]] = []

    def logprobs(self, prompt: Sequence[int]) -> NDArray[np.float64]:
        row: NDArray[np.float64] = self.table[len(prompt) % 16, prompt[-1]]
        return row

    async def expand(self, prompt: list[int], pictures: Sequence[Picture]) -> Expanded:
        raise NotImplementedError

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        assert images is None
        self.asked.append((request_id, k, adapter))
        row = self.logprobs(prompt)
        return answer(*((int(token), float(row[token])) for token in np.argsort(-row)[:k]))

    @property
    def info(self) -> EngineInfo:
        raise NotImplementedError

    def each(self) -> tuple[TableEngine]:
        return (self,)

    async def start(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        raise NotImplementedError

    def partials(self, request_id: str) -> list[Partial]:
        raise NotImplementedError

    async def release(self) -> None: ...

    async def memory_use(self) -> KvUse | None: ...

    @property
    def policy_version(self) -> int:
        raise NotImplementedError

    @property
    def experts_reached(self) -> None: ...

    async def load_adapter(self, adapter: Adapter) -> None: ...

    async def unload_adapter(self, adapter: Adapter) -> None: ...

    async def prepare(self, *_: object) -> None: ...

    async def load_checkpoint(self, *_: object) -> float:
        raise NotImplementedError

    async def link(self, *_: object) -> None: ...

    async def unlink(self, *_: object) -> None: ...

    async def receive(self, *_: object) -> float:
        raise NotImplementedError

    async def located(self, *_: object) -> None: ...

    async def lost(self, *_: object) -> None: ...

    async def score(self, request: ScoreRequest) -> Scores:
        raise NotImplementedError

    def collectors(self) -> Sequence[Collector]:
        return ()

    async def check(self) -> None: ...

    async def close(self) -> None: ...
