"""Images in messages: a reader takes only what can be, and an expanded prompt gives back what was submitted."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from rollstream.schemas import GroupResult, Job, Message, ScoreJob, WireError, decode, encode
from rollstream.schemas.wire.images import ImageSpan, collapsed
from tests.schemas.wire.golden_messages import TODAY

REF: dict[str, Any] = {"sha256": "5a" * 32, "nbytes": 700, "format": "png", "width": 32, "height": 24}
JOB, RESULT, SCORES = (TODAY[f"{name}.v1.images"] for name in ("Job", "GroupResult", "ScoreJob"))


def of(**changed: Any) -> list[list[dict[str, Any]]]:
    return [[{**REF, **changed}], []]


def span(offset: int, length: int) -> dict[str, Any]:
    return {"offset": offset, "length": length, "was": [9]}


CHANGES: list[tuple[Message, dict[str, Any], str]] = [
    (JOB, {"images": of(sha256="../../etc")}, "sha256"),
    (JOB, {"images": of(sha256="5A" * 32)}, "sha256"),
    (JOB, {"images": of(nbytes=0)}, "nbytes"),
    (JOB, {"images": of(nbytes=16 * 2**20 + 1)}, "nbytes"),
    (JOB, {"images": of(format="gif")}, "format"),
    (JOB, {"images": of(width=0)}, "width"),
    (JOB, {"images": of(height=65_536)}, "height"),
    (JOB, {"images": of(width=30_000, height=30_000)}, "30000 x 30000 pixels are more than 67108864"),
    (JOB, {"images": [[REF] * 65, []]}, "at most 64"),
    (JOB, {"images": [[REF]]}, "images: 1 items for 2 groups"),
    (JOB, {"images": [b"\xff\xd8", b""]}, "images"),
    (RESULT, {"image_spans": []}, "image_spans: 0 of them for 2 images"),
    (RESULT, {"images": []}, "image_spans: 2 of them for 0 images"),
    (RESULT, {"image_spans": [span(1, 3), span(3, 1)]}, "overlap"),
    (RESULT, {"image_spans": [span(1, 3), span(5, 2)]}, "exceed"),
    (RESULT, {"image_spans": [{"offset": -1, "length": 1, "was": []}] * 2}, "offset"),
    (RESULT, {"image_spans": [{"offset": 0, "length": 0, "was": []}] * 2}, "length"),
    (RESULT, {"image_spans": [{"offset": 0, "length": 1, "was": [0] * 65}] * 2}, "was"),
    (SCORES, {"images": []}, "image_spans: 3 items for 0 groups"),
    (SCORES, {"images": [[REF], [], []], "image_spans": [[], [{"offset": 0, "length": 1, "was": []}], []]}, "0 images"),
    (SCORES, {"images": [[REF], [], []], "image_spans": [[{"offset": 9, "length": 1, "was": []}], [], []]}, "exceed"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change", "said"), CHANGES, ids=lambda value: str(value)[:40])
def test_images_that_cannot_be_are_refused_by_name(message: Message, change: dict[str, Any], said: str) -> None:
    fields = {**msgpack.unpackb(encode(message)), **change}

    with pytest.raises(WireError, match=said):
        decode(msgpack.packb(fields), type(message))


def test_an_expanded_prompt_gives_back_what_was_submitted() -> None:
    expanded = np.array([5, 9, 9, 9, 7, 9, 6], np.int32)
    spans = ImageSpan(offset=1, length=3, was=(9,)), ImageSpan(offset=5, length=1, was=(8, 9))

    assert collapsed(expanded, spans).tolist() == [5, 9, 7, 8, 9, 6]
    assert collapsed(expanded, ()).tolist() == expanded.tolist()
    assert collapsed(expanded, spans).dtype == np.int32


def test_a_message_without_images_has_none() -> None:
    fields = [msgpack.unpackb(encode(TODAY[name])) for name in ("Job.v1.share", "GroupResult.v1.labels", "ScoreJob.v1")]

    assert not {"images", "image_spans"} & {name for of_message in fields for name in of_message}
    assert [type(message) for message in (JOB, RESULT, SCORES)] == [Job, GroupResult, ScoreJob]
