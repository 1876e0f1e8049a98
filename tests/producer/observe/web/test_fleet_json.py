"""A reading becomes JSON that any browser reads, whatever stands in its fields."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest

from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.web.fleet_json import fleet_json, plain, to_json
from rollstream.schemas.hashes.history import Minute
from tests.support.watching.invented_fleet import invented_fleet

HOSTILE = "\x1b[2J\x1b]0;x\x07<img src=x onerror=alert(1)>\r\n\x00\u2028\u202e\ud800\"'\\</script>\x7f\x9b"


def told(fleet: Fleet) -> Any:
    return json.loads(fleet_json(fleet))


def test_every_attribute_of_a_reading_is_told_under_its_name() -> None:
    fleet = invented_fleet()
    whole = told(fleet)
    names = {one.name for one in fields(Fleet)}

    assert set(whole) == names | {"tokens_per_s", "backlog_s", "partials_bytes"}
    assert whole["tokens_per_s"] == 11_900.0
    assert [batch["is_under_way"] for batch in whole["batches"]] == [True, False, False]
    assert whole["workers"][1]["presence"] == "late"
    assert whole["workers"][1]["report"]["paused_for"] == ["policy"]
    assert whole["versions"] == json.loads(json.dumps([asdict(one) for one in fleet.versions]))


def test_a_minute_has_its_number_and_counts_by_name() -> None:
    minute = Minute(groups=3, tokens=7, staleness={0: 2, 64: 1}, errors={"too_long": 1})
    assert told(replace(invented_fleet(), minutes=((29_000_000, minute),)))["minutes"] == [
        {
            "minute": 29_000_000, "groups": 3, "sequences": 0, "tokens": 7, "asked": 0, "scored": 0,
            "staleness": {"0": 2, "64": 1}, "errors": {"too_long": 1},
        }
    ]  # fmt: skip


def with_hostile_texts(value: Any) -> Any:
    """The same, with the hostile text in place of every text."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(map(with_hostile_texts, value))
    if isinstance(value, dict):
        return {with_hostile_texts(name): with_hostile_texts(item) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: with_hostile_texts(getattr(value, one.name)) for one in fields(value)})
    return value


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def test_hostile_texts_in_every_field_are_escaped_and_stay_text() -> None:
    data = fleet_json(with_hostile_texts(invented_fleet()))
    found = texts(json.loads(data))

    assert data.isascii()
    assert b"\n" not in data
    assert b"\r" not in data
    assert sum("<img src=x onerror=alert(1)>" in text for text in found) > 30
    assert [text for text in found if not text.replace("\n", "").isprintable()] == []


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (-float("inf"), None),
        (1e308, 1e308),
        (2**53, 2**53),
        (2**53 + 1, None),
        (-(10**400), None),
        (True, True),
        (None, None),
        ("\ud800", "\\ud800"),
        ((1, {2: float("nan")}), [1, {"2": None}]),
    ],
)
def test_what_json_or_a_browser_lacks_is_unknown(value: Any, as_json: Any) -> None:
    assert json.loads(to_json({"value": plain(value)})) == {"value": as_json}


def test_half_of_a_surrogate_pair_travels_as_its_escape() -> None:
    assert to_json({"text": "\ud800"}) == b'{"text":"\\ud800"}'


def test_what_is_no_part_of_a_reading_is_a_defect() -> None:
    with pytest.raises(TypeError, match="a reading holds no bytes"):
        plain(b"payload")
