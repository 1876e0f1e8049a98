"""One choice of a stream of a completion: whole characters, and never another beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.batches.tokenizer_folder import read_tokenizer
from rollstream.producer.gateway.answers.completion import GrowingCompletion
from rollstream.producer.gateway.answers.decoder import Decoder, GrowingText
from rollstream.producer.gateway.answers.pieces import Piece
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.requests.asked import Terms
from rollstream.producer.gateway.requests.completion import completion_asked

TEXTS = ["two and two", "naïve café", "日本語 and 😀😀", "é", "", "\ufffd stays", "a\n\n b"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return read_tokenizer(tiny_model)


@pytest.fixture
def growing(tokenizer: Any) -> GrowingCompletion:
    asked = completion_asked({"model": "m", "prompt": "a", "return_token_ids": True}, {}, Terms(policy="m"))
    return GrowingCompletion(asked=asked, decoder=Decoder(tokenizer), batch_id="b", index=0)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_text_comes_in_whole_characters_and_is_the_same(tokenizer: Any, text: str, size: int) -> None:
    ids = tokenizer(text)["input_ids"]
    grown = GrowingText(Decoder(tokenizer).text)
    pieces = [grown.add(ids[first : first + size]) for first in range(0, len(ids), size)]

    assert text.startswith("".join(pieces))
    assert all(piece.isprintable() or piece.isspace() or "\n" in piece for piece in pieces)
    if "\ufffd" not in text:
        assert "".join(pieces) == text
        assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_text_offsets_are_places_in_the_text_and_the_same_in_streams(tokenizer: Any, size: int) -> None:
    ids, decoder = tokenizer("a日本 😀ok")["input_ids"], Decoder(tokenizer)
    asked = completion_asked({"model": "m", "prompt": "a", "logprobs": 0}, {}, Terms(policy="m"))
    growing = GrowingCompletion(asked=asked, decoder=decoder, batch_id="b", index=0)
    pieces = [Piece(ids=ids[:end], logprobs=[-1.0] * len(ids[:end])) for end in range(size, len(ids) + size, size)]
    streamed = [at for piece in pieces for one in growing.grow(piece) for at in one["logprobs"]["text_offset"]]

    assert [*decoder.text(ids)][streamed[-1]] in "ok"
    assert streamed == sorted(streamed) == [len(decoder.text(ids[:at]).rstrip("\ufffd")) for at in range(len(ids))]


@pytest.mark.parametrize("later", [[5, 9, 7, 8], [9, 6, 7, 8], [5, 6]])
def test_other_ids_than_were_sent_end_the_stream(growing: GrowingCompletion, later: list[int]) -> None:
    assert [choice["token_ids"] for choice in growing.grow(Piece(ids=[5, 6, 7]))] == [[5, 6, 7]]
    with pytest.raises(ApiError, match="is not what was sent of it") as broken:
        list(growing.grow(Piece(ids=later)))
    assert (broken.value.code, broken.value.batch_id) == ("stream_broken", "b")


def test_only_new_ids_are_sent(growing: GrowingCompletion) -> None:
    sent = [list(growing.grow(Piece(ids=ids))) for ids in ([5], [5], [5, 6, 7])]
    assert [[choice["token_ids"] for choice in choices] for choices in sent] == [[[5]], [], [[6, 7]]]
