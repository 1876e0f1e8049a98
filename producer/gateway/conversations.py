"""POST /v1/chat/completions: conversations into the queue, each turn after the one that it goes on from."""

from __future__ import annotations

from functools import partial

from ..batches.handle import BatchHandle
from ..client import AsyncClient
from .answers.chat import ChatForm
from .answers.decoder import Decoder
from .chat import ChatFormat, ChatRequestError
from .completions import batch_id_of, created_at, options_of
from .errors import ApiError
from .orders import Orders
from .requests.asked import ChatAsked
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
    ) -> None:
        """`chat` is used by the thread of `tokenizing` alone, `reader` by the event loop."""
        self._client = client
        self._tokenizing = tokenizing
        self._chat = chat
        self._reader = reader
        self._decoder = decoder
        self._orders = orders

    async def submit(self, asked: ChatAsked) -> BatchHandle:
        """Queue its prompt. Raises `ApiError`, and what `AsyncClient.submit` raises."""
        prompt = await self._whole(asked)
        options = options_of(asked, self._orders.timeout_s)
        options["batch_id"] = batch_id_of(asked.caller.request_id)
        return await self._client.submit([prompt], None, asked.config, **options)

    async def form(self, asked: ChatAsked, handle: BatchHandle) -> ChatForm:
        """The shape of its answers."""
        prompt = await self._whole(asked) if self._chat.thinks else []
        return ChatForm(
            asked=asked,
            chat=self._reader,
            decoder=self._decoder,
            batch_id=handle.batch_id,
            prompt=prompt,
            created=await created_at(self._client, handle),
        )

    async def _whole(self, asked: ChatAsked) -> list[int]:
        work = partial(self._chat.whole, asked.messages, asked.tools, **asked.template_options)
        try:
            return await self._tokenizing.apart(work)
        except ChatRequestError as error:
            raise ApiError(400, str(error), error.param, error.code) from None
