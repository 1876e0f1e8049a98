"""Answers of POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rollstream.schemas import Completion, GroupResult

from ..requests.asked import CompletionAsked
from .contradiction import changed_text, contradiction
from .decoder import Decoder
from .logprobs import completion_logprobs
from .pieces import Piece
from .usage import finish_reason, usage_of


class CompletionForm:
    """The answers to one request. A choice's index is its prompt's times `n` plus the sample's."""

    def __init__(self, *, asked: CompletionAsked, decoder: Decoder, batch_id: str, created: int) -> None:
        self._asked = asked
        self._decoder = decoder
        self._n = asked.config.num_return_sequences
        self.batch_id = batch_id
        self._head = {
            "id": f"cmpl-{batch_id}",
            "object": "text_completion",
            "created": created,
            "model": asked.model,
        }

    async def whole(self, results: Sequence[GroupResult]) -> dict[str, Any]:
        """The answer in one; `results` in the order of the prompts. Others are served between its choices."""
        choices: list[dict[str, Any]] = []
        for result in results:
            for one in result:
                choices.append(self._choice(result, one, result.group * self._n + one.sample))
                await asyncio.sleep(0)
        return {**self._head, "choices": choices, "usage": usage_of(results)}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """One event of a stream."""
        told = {"usage": usage} if self._asked.stream is not None and self._asked.stream.usage else {}
        return {**self._head, "choices": choices, **told}

    def growing(self, group: int, sample: int) -> GrowingCompletion:
        """One choice of a stream."""
        index = group * self._n + sample
        return GrowingCompletion(asked=self._asked, decoder=self._decoder, batch_id=self.batch_id, index=index)

    def _choice(self, result: GroupResult, one: Completion, index: int) -> dict[str, Any]:
        text = self._text(one)
        shown, piece = self._asked.shown, Piece.of(one)
        logprobs = None
        if shown.logprobs is not None:
            growing = self._decoder.growing(special_tokens=shown.special_tokens)
            offsets = [min(at, len(text)) for at in growing.offsets(piece.ids)]
            logprobs = completion_logprobs(piece, self._decoder, shown.logprobs, offsets)
        ids = {"prompt_token_ids": result.prompt_ids, "token_ids": one.token_ids} if shown.token_ids else {}
        return {"index": index, "text": text, "logprobs": logprobs, **_ending(one), **ids}

    def _text(self, one: Completion) -> str:
        if one.text is not None:
            return one.text
        return self._decoder.text(one.token_ids, special_tokens=self._asked.shown.special_tokens)


class GrowingCompletion:
    """One choice of a stream: what was sent of it, and what comes next."""

    def __init__(self, *, asked: CompletionAsked, decoder: Decoder, batch_id: str, index: int) -> None:
        self._shown = asked.shown
        self._decoder = decoder
        self._batch_id = batch_id
        self._index = index
        self._ids: list[int] = []
        special = asked.shown.special_tokens
        self._decode = partial(decoder.text, special_tokens=special)
        self._text = decoder.growing(special_tokens=special)
        self._prompt_was_sent = False

    def grow(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Choices for a chunk, of what the completion has by now. Raises `ApiError` if it is not what was sent."""
        new = self._new(piece)
        sent, offsets = len(self._text.text), self._text.offsets(new.ids)
        text = self._text.text[sent:]
        if len(new) and (text or self._shown.token_ids or self._shown.logprobs is not None):
            yield self._choice(text, new, offsets)

    def end(self, result: GroupResult, one: Completion) -> Iterator[dict[str, Any]]:
        """What is left, and why it ended."""
        new = self._new(Piece.of(one))
        sent, whole = self._text.text, self._decode(one.token_ids)
        if not whole.startswith(sent):
            raise changed_text(self._batch_id)
        prompt = {"prompt_token_ids": result.prompt_ids} if self._shown.token_ids else {}
        offsets = self._text.offsets(new.ids)
        yield {**self._choice(whole[len(sent) :], new, offsets), **_ending(one), **prompt}

    def _new(self, piece: Piece) -> Piece:
        length = len(self._ids)
        if piece.ids[:length] != self._ids:
            raise contradiction(self._batch_id, "the completion is not what was sent of it")
        self._ids = piece.ids
        return piece.after(length)

    def _choice(self, text: str, piece: Piece, offsets: list[int]) -> dict[str, Any]:
        most = self._shown.logprobs
        logprobs = None if most is None else completion_logprobs(piece, self._decoder, most, offsets)
        ids = {"token_ids": piece.ids} if self._shown.token_ids else {}
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": None, **ids}


def _ending(one: Completion) -> dict[str, Any]:
    return {"finish_reason": finish_reason(one.finish_reason), "stop_reason": one.stop_reason}
