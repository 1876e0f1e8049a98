"""One choice of a stream of a completion: whole characters, and never another beginning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.producer.batches.tokenizer_folder import read_tokenizer
from rollstream.producer.gateway.answers.completion import GrowingCompletion
from rollstream.producer.gateway.answers.decoder import Decoder
from rollstream.producer.gateway.answers.pieces import Piece
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.requests.asked import Terms
from rollstream.producer.gateway.requests.completion import completion_asked
from tests.support.chat.tokenizers import saved

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
    grown = Decoder(tokenizer).growing()
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


def pieces_of(ids: list[int], size: int) -> list[Piece]:
    ends = range(size, len(ids) + size, size)
    return [Piece(ids=ids[:end], logprobs=[-1.0] * len(ids[:end])) for end in ends]


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize(
    ("names", "offsets"),
    [
        ("<0x0A> <0xF0> <0x9F>", [0, 1, 1, 1]),
        ("<0x0A> <0xF0> <0x9F> e", [0, 1, 1, 1, 4]),
        ("<0x0A> e", [0, 1, 2]),
    ],
)
def test_bytes_that_a_later_one_breaks_end_no_stream(tmp_path: Path, names: str, offsets: list[int], size: int) -> None:
    tokenizer = read_tokenizer(saved("llama2", tmp_path))
    ids = tokenizer.convert_tokens_to_ids(["f", *names.split()])
    asked = completion_asked({"model": "m", "prompt": "a", "logprobs": 0}, {}, Terms(policy="m"))
    growing = GrowingCompletion(asked=asked, decoder=Decoder(tokenizer), batch_id="b", index=0)
    one: Any = SimpleNamespace(token_ids=ids, logprobs=[-1.0] * len(ids), top_token_ids=None, top_logprobs=None)
    vars(one).update(finish_reason="length", stop_reason=None)

    choices = [choice for piece in pieces_of(ids, size) for choice in growing.grow(piece)]
    choices += growing.end(SimpleNamespace(prompt_ids=[]), one)  # type: ignore[arg-type]  # what is read of it

    assert "".join(choice["text"] for choice in choices) == tokenizer.decode(ids)
    assert [at for choice in choices for at in choice["logprobs"]["text_offset"]] == offsets


def test_a_text_that_changes_though_its_tokens_do_not_is_told_as_that(tokenizer: Any) -> None:
    decoder, whole = Decoder(tokenizer), ["a", "b"]
    decoder.text = lambda ids, **_: whole[len(ids) - 1] if ids else ""  # type: ignore[method-assign]
    asked = completion_asked({"model": "m", "prompt": "a"}, {}, Terms(policy="m"))
    growing = GrowingCompletion(asked=asked, decoder=decoder, batch_id="b", index=0)
    one: Any = SimpleNamespace(token_ids=[5, 6], logprobs=None, top_token_ids=None, top_logprobs=None)
    list(growing.grow(Piece(ids=[5])))

    with pytest.raises(ApiError, match="ask for it without stream") as broken:
        list(growing.end(SimpleNamespace(prompt_ids=[]), one))  # type: ignore[arg-type]  # what is read of it
    assert (broken.value.code, broken.value.batch_id) == ("stream_broken", "b")
