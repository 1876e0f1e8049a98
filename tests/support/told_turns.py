"""Turns of a session that are answered by hand, as workers answer them: each prompt begins with what came before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollstream import AsyncClient, BatchHandle, GenerationConfig, Session, Turn
from rollstream.schemas import Tensor
from tests.support.answers import Answering, error_of, result_of

CONFIG = GenerationConfig(max_new_tokens=8)


class Talk:
    """One session, and a worker by hand."""

    def __init__(self, client: AsyncClient, redis_url: str, policy: str, name: str = "talk") -> None:
        self.session: Session = client.session(name)
        self._url = redis_url
        self._policy = policy
        self._whole: dict[Turn, list[int]] = {}
        self._earlier: dict[Turn, list[tuple[int, int]]] = {}

    async def turn(
        self,
        new_ids: Sequence[int],
        completions: Sequence[Sequence[int]],
        parent: Turn | None = None,
        request_id: str | None = None,
        **changes: Any,
    ) -> list[Turn]:
        """Submit a turn and answer it; returns its completions."""
        config = CONFIG.model_copy(update={"num_return_sequences": len(completions)})
        handle = await self.session.submit(new_ids, config, continue_of=parent, request_id=request_id)
        prompt = [*(self._whole[parent] if parent else ()), *new_ids]
        self.answer(handle, result_of(0, prompt, completions, handle.batch_id, **self.goes_on(parent), **changes))
        ends = [Turn(batch_id=handle.batch_id, group=0, sample=sample) for sample in range(len(completions))]
        for end, ids in zip(ends, completions, strict=True):
            self._whole[end] = [*prompt, *ids]
            self._earlier[end] = [*(self._earlier[parent] if parent else ()), (len(prompt), len(ids))]
        return ends

    def goes_on(self, parent: Turn | None) -> dict[str, Any]:
        """What a result says of the turn before it."""
        if parent is None:
            return {}
        earlier = Tensor.of(np.array(self._earlier[parent], np.int32))
        return {"continued": parent, "earlier_completions": earlier}

    async def failed(self, new_ids: Sequence[int], parent: Turn | None = None, request_id: str | None = None) -> Turn:
        handle = await self.session.submit(new_ids, CONFIG, continue_of=parent, request_id=request_id)
        self.answer(handle, error_of(0, batch_id=handle.batch_id))
        return Turn(batch_id=handle.batch_id, group=0, sample=0)

    def answer(self, handle: BatchHandle, answer: Any) -> None:
        Answering(self._url, self._policy, handle.batch_id, 1).publish(answer)
