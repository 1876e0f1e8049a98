"""POST /v1/completions: prompts into the queue, and the form of what comes back."""

from __future__ import annotations

import hashlib
import time
from typing import Any
from uuid import uuid4

from ..batches.handle import BatchHandle
from ..batches.submit_options import SubmitOptions
from ..client import AsyncClient
from .answers.completion import CompletionForm
from .answers.decoder import Decoder
from .orders import Orders
from .requests.asked import Asked, CompletionAsked
from .tokenizing import Tokenizing

FOLLOW_S = 0.1
"""Seconds between two times that a worker keeps what a streamed completion has."""


def batch_id_of(request_id: str | None) -> str:
    """The batch of a request id, always the same; a new one for a request without."""
    if request_id is None:
        return f"gateway-{uuid4().hex}"
    return f"gateway-{hashlib.sha256(request_id.encode()).hexdigest()[:40]}"


def options_of(asked: Asked, timeout_s: float) -> SubmitOptions:
    """How its jobs are queued, apart from their content.

    What nobody can ask for again is not worth sampling once its time is up, even if this process is gone by then.
    """
    again = asked.caller.request_id is not None
    options: SubmitOptions = {"adapter": asked.adapter, "queue_deadline_s": None if again else timeout_s}
    if asked.stream is not None:
        options["keep_partials"] = FOLLOW_S
    return options


class Completions:
    """Submits requests for completions."""

    def __init__(self, *, client: AsyncClient, tokenizing: Tokenizing, decoder: Decoder, orders: Orders) -> None:
        self._client = client
        self._tokenizing = tokenizing
        self._decoder = decoder
        self._orders = orders

    async def submit(self, asked: CompletionAsked) -> BatchHandle:
        """Queue its prompts. Raises `ApiError`, and what `AsyncClient.submit` raises."""
        prompts = await self._tokenizing.prompts(asked)
        options = options_of(asked, self._orders.timeout_s)
        options["batch_id"] = batch_id_of(asked.caller.request_id)
        return await self._client.submit(prompts, None, asked.config, **options)

    async def form(self, asked: CompletionAsked, handle: BatchHandle) -> CompletionForm:
        """The shape of its answers."""
        created = await created_at(self._client, handle)
        return CompletionForm(asked=asked, decoder=self._decoder, batch_id=handle.batch_id, created=created)


async def created_at(client: AsyncClient, handle: BatchHandle) -> int:
    """When the batch was queued first, in unix seconds, so that an answer that is given again is the same."""
    found: Any = handle
    if handle.is_repeat:
        found = await client.attach(handle.batch_id)
    return int(found.batch.submitted_at or time.time())
