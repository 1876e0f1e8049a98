"""Answers in one piece: what they say, and that others are served while a wide one is made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollstream.producer.gateway.answers.chat import ChatForm
from rollstream.producer.gateway.answers.completion import CompletionForm
from rollstream.producer.gateway.answers.decoder import Decoder
from rollstream.producer.gateway.chat import ChatFormat
from rollstream.producer.gateway.requests.asked import Terms
from rollstream.producer.gateway.requests.chat import chat_asked
from rollstream.producer.gateway.requests.completion import completion_asked
from tests.support.gateway.served import USER


class Result(list[Any]):
    """A group of completions, with what a form reads of it."""

    batch_id, group, prompt_ids, cached_tokens = "b", 0, [5], None
    prompt = np.array([5])

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        return np.array([len(one.token_ids) for one in self])


def form_of(folder: Path, **asked: Any) -> ChatForm:
    chat = ChatFormat.of(folder)
    told = chat_asked({"model": "m", "messages": USER, **asked}, {}, Terms(policy="m", has_chat=True))
    return ChatForm(asked=told, chat=chat, decoder=Decoder(chat.tokenizer), batch_id="b", prompt=[], created=0)


def said(folder: Path, text: str, *, n: int = 1) -> Result:
    ids = ChatFormat.of(folder).tokenizer(text, add_special_tokens=False)["input_ids"]
    one = {"token_ids": ids, "stop_reason": "END", "finish_reason": "stop"}
    return Result(SimpleNamespace(sample=sample, **one) for sample in range(n))


@pytest.mark.parametrize(("keeps", "text"), [(False, "so "), (True, "so END")])
async def test_a_stop_string_is_said_where_the_request_keeps_it(chat_tokenizer: Path, keeps: bool, text: str) -> None:
    form = form_of(chat_tokenizer, stop="END", include_stop_str_in_output=keeps)

    told: Any = await form.whole([said(chat_tokenizer, "so END")])  # type: ignore[list-item]  # what is read of one

    assert told["choices"][0]["message"]["content"] == text


async def test_text_offsets_of_a_whole_completion_are_places_in_its_text(chat_tokenizer: Path) -> None:
    result = said(chat_tokenizer, "日本 ok")
    (one,) = result
    vars(one).update(
        {"logprobs": [-1.0] * len(one.token_ids), "top_token_ids": None, "top_logprobs": None, "text": None}
    )
    asked = completion_asked({"model": "m", "prompt": "a", "logprobs": 0}, {}, Terms(policy="m"))
    decoder = Decoder(ChatFormat.of(chat_tokenizer).tokenizer)
    form = CompletionForm(asked=asked, decoder=decoder, batch_id="b", created=0)

    told: Any = await form.whole([result])  # type: ignore[list-item]  # what is read of one

    offsets = told["choices"][0]["logprobs"]["text_offset"]
    before = [decoder.text(one.token_ids[:at]).rstrip("\ufffd") for at in range(len(one.token_ids))]
    assert offsets == [len(text) for text in before]


async def test_others_are_served_between_the_choices_of_a_wide_answer(chat_tokenizer: Path) -> None:
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    busy = asyncio.ensure_future(other())
    await form_of(chat_tokenizer, n=50).whole([said(chat_tokenizer, "so", n=50)])  # type: ignore[list-item]  # see above
    busy.cancel()

    assert len(turns) >= 50
