"""POST /v1/chat/completions: conversations into the queue, each turn after the one that it goes on from."""

from __future__ import annotations

from ..batches.handle import BatchHandle
from ..client import AsyncClient
from .answers.chat import ChatForm
from .answers.decoder import Decoder
from .chat import ChatFormat
from .completions import batch_id_of, created_at, options_of
from .orders import Orders
from .requests.asked import ChatAsked
from .session_turns import SessionTurns, whole_prompt
from .tokenizing import Tokenizing


class Conversations:
    """Submits requests for replies."""

    def __init__(
        self,
        *,
        client: AsyncClient,
        tokenizing: Tokenizing,
        chat: ChatFormat,
        reader: ChatFormat,
        decoder: Decoder,
        orders: Orders,
        retention_s: float,
    ) -> None:
        """`chat` is used by the thread of `tokenizing` alone, `reader` by the event loop."""
        self._client = client
        self._tokenizing = tokenizing
        self._chat = chat
        self._reader = reader
        self._decoder = decoder
        self._orders = orders
        self._turns = SessionTurns(
            client=client,
            tokenizing=tokenizing,
            chat=chat,
            reader=reader,
            orders=orders,
            retention_s=retention_s,
        )

    async def submit(self, asked: ChatAsked) -> BatchHandle:
        """Queue its prompt, or its turn of a session. Raises `ApiError`, and what `AsyncClient.submit` raises."""
        if asked.caller.session is not None:
            return await self._turns.submit(asked, asked.caller.session)
        prompt = await whole_prompt(self._tokenizing, self._chat, asked, asked.characters)
        options = options_of(asked, self._orders.timeout_s)
        options["batch_id"] = batch_id_of(asked.caller.request_id)
        return await self._client.submit([prompt], None, asked.config, **options)

    async def form(self, asked: ChatAsked, handle: BatchHandle) -> ChatForm:
        """The shape of its answers."""
        opens = self._chat.thinks and asked.stream is not None  # a whole answer's result has the prompt
        prompt = await whole_prompt(self._tokenizing, self._chat, asked) if opens else []
        return ChatForm(
            asked=asked,
            chat=self._reader,
            decoder=self._decoder,
            batch_id=handle.batch_id,
            prompt=prompt,
            created=await created_at(self._client, handle),
        )
