"""Answers of POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from rollstream.schemas import Completion, GroupResult

from ..chat import PROMPT_END, ChatFormat, Delta, Reply, ReplyChangedError
from ..errors import ApiError
from ..requests.asked import ChatAsked
from .contradiction import changed_text, contradiction
from .decoder import Decoder
from .logprobs import chat_logprobs
from .pieces import Piece
from .usage import finish_reason, usage_of


class ChatForm:
    """The answers to one request. A choice's index is the sample's."""

    def __init__(
        self, *, asked: ChatAsked, chat: ChatFormat, decoder: Decoder, batch_id: str, prompt: list[int], created: int
    ) -> None:
        """`prompt`: the last ids of the prompt are enough."""
        self._asked = asked
        self._chat = chat
        self._decoder = decoder
        self.batch_id = batch_id
        self._prompt = prompt[-PROMPT_END:]
        self._head = {"id": f"chatcmpl-{batch_id}", "created": created, "model": asked.model}

    async def whole(self, results: Sequence[GroupResult]) -> dict[str, Any]:
        """The answer in one. Others are served between its choices."""
        choices: list[dict[str, Any]] = []
        for result in results:
            for one in result:
                choices.append(self._choice(result, one))
                await asyncio.sleep(0)
        usage = usage_of(results)
        ids = {"prompt_token_ids": results[0].prompt_ids} if self._asked.shown.token_ids else {}
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage, **ids}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """One event of a stream. The prompt's ids come with the event that has the first completion's end."""
        told: dict[str, Any] = {"object": "chat.completion.chunk", "choices": choices}
        if prompts := [ids for choice in choices if (ids := choice.pop("prompt_token_ids", None)) is not None]:
            told["prompt_token_ids"] = prompts[0]
        if self._asked.stream is not None and self._asked.stream.usage:
            told["usage"] = usage
        return {**self._head, **told}

    def growing(self, group: int, sample: int) -> StreamedReply:  # noqa: ARG002 - a conversation is one group
        """One choice of a stream."""
        return StreamedReply(form=self, chat=self._chat, decoder=self._decoder, asked=self._asked, index=sample)

    @property
    def opened(self) -> list[int]:
        """The end of the prompt."""
        return self._prompt

    def reply(self, result: GroupResult, one: Completion) -> Reply:
        """What a completion says."""
        keeps_stop = self._asked.config.include_stop_str_in_output
        return reply_of(self._chat, tools_read(self._asked), result, one, keeps_stop=keeps_stop)

    def _choice(self, result: GroupResult, one: Completion) -> dict[str, Any]:
        reply, most = self.reply(result, one), self._asked.shown.logprobs
        if why := why_not_forced(self._asked, reply, one):
            text = f"tool_choice: a call was wanted, and the reply of choice {one.sample} is none: {why}"
            raise ApiError(422, text, "tool_choice", "no_tool_call", self.batch_id)
        return {
            "index": one.sample,
            "message": {"refusal": None, **reply.message()},
            "logprobs": None if most is None else chat_logprobs(Piece.of(one), self._decoder, most),
            **ending(reply, one),
            **({"token_ids": one.token_ids} if self._asked.shown.token_ids else {}),
        }


class StreamedReply:
    """One choice of a stream: what was sent of it, and what comes next."""

    def __init__(self, *, form: ChatForm, chat: ChatFormat, decoder: Decoder, asked: ChatAsked, index: int) -> None:
        self._form = form
        self._growing = chat.growing(tools_read(asked), form.opened)
        self._decoder = decoder
        self._shown = asked.shown
        self._index = index
        self._ids: list[int] = []
        self._has_begun = False

    def grow(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Choices for a chunk, of what the reply has by now. Raises `ApiError` if it is not what was sent."""
        yield from self._begun()
        new = self._new(piece)
        delta = told(self._growing.feed(new.ids))
        if len(new) and (delta or self._shown.token_ids or self._shown.logprobs is not None):
            yield self._choice(delta, new)

    def end(self, result: GroupResult, one: Completion) -> Iterator[dict[str, Any]]:
        """What is left, the calls, and why it ended."""
        yield from self._begun()
        new, reply = self._new(Piece.of(one)), self._form.reply(result, one)
        delta = self._rest(reply)
        if reply.tool_calls:
            calls = [call.as_json() for call in reply.tool_calls]
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        prompt = {"prompt_token_ids": result.prompt_ids} if self._shown.token_ids else {}
        if delta or len(new):
            yield self._choice(delta, new)
        yield {**self._choice({}, Piece()), **ending(reply, one), **prompt}

    def _begun(self) -> Iterator[dict[str, Any]]:
        if not self._has_begun:
            self._has_begun = True
            yield self._choice({"role": "assistant", "content": ""}, Piece())

    def _new(self, piece: Piece) -> Piece:
        length = len(self._ids)
        if piece.ids[:length] != self._ids:
            raise contradiction(self._form.batch_id, "the completion is not what was sent of it")
        self._ids = piece.ids
        return piece.after(length)

    def _rest(self, reply: Reply) -> dict[str, Any]:
        try:
            return told(self._growing.rest(reply))
        except ReplyChangedError:
            raise changed_text(self._form.batch_id) from None

    def _choice(self, delta: dict[str, Any], piece: Piece) -> dict[str, Any]:
        most = self._shown.logprobs
        shown = most is not None and len(piece)
        logprobs = chat_logprobs(piece, self._decoder, most or 0) if shown else None
        ids = {"token_ids": piece.ids} if self._shown.token_ids else {}
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": None, **ids}


def ending(reply: Reply, one: Completion) -> dict[str, Any]:
    """Why it ended. `notes` tell which calls stayed text, and why."""
    notes = {"notes": list(reply.notes)} if reply.notes else {}
    return {"finish_reason": reply.finish_reason, "stop_reason": one.stop_reason, **notes}


def why_not_forced(asked: ChatAsked, reply: Reply, one: Completion) -> str:
    """Why a reply is not the call that the request forces; empty if it is, or if its `finish_reason` says so."""
    if not asked.forced or reply.finish_reason == "length":
        return ""
    if reply.notes:
        return reply.notes[0]
    if other := next((call.name for call in reply.tool_calls if call.name not in asked.forced), ""):
        return f"it is a call of {other!r}"
    if reply.tool_calls:
        return ""
    if isinstance(one.stop_reason, str):
        return f"it ended at the stop string {one.stop_reason!r}: leave that out"
    return "the worker that sampled it did not keep to the grammar of a call"


def told(delta: Delta) -> dict[str, Any]:
    """What comes next, as a choice's `delta` has it."""
    named = {"reasoning_content": delta.reasoning, "content": delta.content}
    return {name: text for name, text in named.items() if text}


def tools_read(asked: ChatAsked) -> list[dict[str, Any]]:
    """The tools whose calls are read out of the reply."""
    return asked.tools if asked.has_calls else []


def reply_of(
    chat: ChatFormat, tools: list[dict[str, Any]], result: GroupResult, one: Completion, *, keeps_stop: bool
) -> Reply:
    """What a completion says, without the stop string that ended it unless the request keeps that."""
    return chat.reply(
        one.token_ids,
        tools,
        finish_reason=finish_reason(one.finish_reason),
        stop=one.stop_reason if isinstance(one.stop_reason, str) else None,
        keeps_stop=keeps_stop,
        seed=f"{result.batch_id}:{one.sample}",
        prompt=result.prompt_ids,
    )
