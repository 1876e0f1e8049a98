"""Text of ids that come some at a time is how the text of all of them begins, and costs the same for each of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from rollstream.producer.gateway.answers.decoder import Decoder
from rollstream.producer.gateway.chat import ChatFormat
from rollstream.producer.gateway.growing_text import BROKEN

Formats = Callable[[str], ChatFormat]
WITH_BYTES = ["llama2", "mistral", "phi3", "gemma2"]
NEWLINE, FIRST, SECOND = "<0x0A>", "<0xF0>", "<0x9F>"


def named(form: ChatFormat, *names: str) -> list[int]:
    return list(form.tokenizer.convert_tokens_to_ids(list(names)))


@pytest.mark.parametrize("family", WITH_BYTES)
@pytest.mark.parametrize("names", [(NEWLINE, FIRST, SECOND), (NEWLINE, FIRST, SECOND, "e"), (NEWLINE, "e", FIRST)])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_bytes_that_a_later_one_breaks_are_not_sent_before(
    family: str, names: Sequence[str], size: int, formats: Formats
) -> None:
    form = formats(family)
    ids = named(form, "f", *names)
    growing = form.growing()

    sent = "".join(growing.feed(ids[at : at + size]).content for at in range(0, len(ids), size))
    whole = form.reply(ids, finish_reason="length")

    assert sent + growing.rest(whole).content == whole.content


def test_whole_bytes_are_sent_with_what_comes_behind_them(formats: Formats) -> None:
    form = formats("llama2")
    growing = form.growing()

    sent = [growing.feed([one]).content for one in named(form, "f", NEWLINE, NEWLINE, "e")]

    assert sent == ["f", "", "", "\n\ne"]


@pytest.mark.parametrize("family", ["qwen3", "llama2", "phi3"])
@pytest.mark.parametrize("special", [True, False])
def test_any_ids_are_given_as_all_of_them_are_decoded(family: str, special: bool, formats: Formats) -> None:
    form, rng = formats(family), random.Random(family)
    decoder, most = Decoder(form.tokenizer), len(form.tokenizer)
    odd = [*form.tokenizer.all_special_ids, most + 3, most + 9, *form.tokenizer("é日😀\n").input_ids]

    for _ in range(60):
        ids = [rng.choice(odd) if rng.random() < 0.4 else rng.randrange(most) for _ in range(40)]
        ids += form.tokenizer("e", add_special_tokens=False).input_ids[-1:]  # behind it nothing waits
        growing, whole = decoder.growing(special_tokens=special), decoder.text(ids, special_tokens=special)
        text = "".join(growing.add(ids[at : at + 3]) for at in range(0, len(ids), 3))
        offsets = decoder.growing(special_tokens=special).offsets(ids)

        assert text == growing.text == whole
        assert offsets == sorted(offsets)
        assert offsets[-1] <= len(whole)


@pytest.mark.parametrize("family", ["qwen3", "llama2"])
@pytest.mark.parametrize("kinds", ["broken", "special", "unknown", "broken special", "text"])
def test_each_id_costs_the_same_however_many_came_before(
    family: str, kinds: str, formats: Formats, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, read = formats(family), 0
    decoder = Decoder(form.tokenizer)
    broken = next(one for one in range(300) if form.tokenizer.decode([one]) == BROKEN)
    ids = {"broken": broken, "special": min(form.end_ids), "unknown": len(form.tokenizer) + 3, "text": 290}
    many = [ids[kind] for kind in kinds.split()] * 400
    text = decoder.text

    def counted(some: Sequence[int], *, special_tokens: bool = False) -> str:
        nonlocal read
        read += len(some)
        return text(some, special_tokens=special_tokens)

    monkeypatch.setattr(decoder, "text", counted)
    decoder.growing().offsets(many)

    assert read < 50 * len(many)
