"""A body that is no JSON object is refused by what is wrong with it."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from rollstream.producer.http.bodies import json_object


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a": NaN}', "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b'{"a": "\xff"}', "the body is no JSON"),
        (b"[]", "the body is no JSON object"),
        (b'{"a": 1, "a": 2}', "an object of the body has 'a' twice"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "an integer of the body has more than 4300 digits"),
        (b'{"a":' * 100_000, "the body is nested too deeply"),
    ],
    ids=["nan", "cut", "bytes", "list", "twice", "digits", "deep"],
)
def test_a_body_is_refused_by_what_is_wrong(body: bytes, told: str) -> None:
    with pytest.raises(HTTPException) as refused:
        json_object(body)

    assert (refused.value.status_code, refused.value.detail) == (400, told)
