"""Guides that no worker could follow are refused where a config is made, before anything is queued."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollstream.schemas import ConfigError, GenerationConfig


def nested(levels: int) -> str:
    return '{"items": ' * levels + "{}" + "}" * levels


def _guided(guide: dict[str, Any]) -> GenerationConfig:
    options: dict[str, Any] = {"max_new_tokens": 1, "guided": guide}
    return GenerationConfig(**options)


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        ({"json_schema": '{"$ref": "http://127.0.0.1/a.json"}'}, "nothing is fetched"),
        ({"json_schema": '{"properties": {"a": [{"$ref": "file:///etc/passwd"}]}}'}, "nothing is fetched"),
        ({"json_schema": '{"$dynamicRef": "other.json#a"}'}, "nothing is fetched"),
        ({"json_schema": '{"type":'}, "is no JSON"),
        ({"json_schema": "3"}, "not a schema"),
        ({"json_schema": nested(65)}, "more than 64"),
        ({"json_schema": nested(5000)}, "too deep|more than 64"),
        ({"grammar": 'start ::= "a"'}, "no rule root"),
        ({"regex": "a\0b"}, "NUL"),
        ({"choice": ["yes", "n\0"]}, "NUL"),
        ({"regex": "a", "choice": ["b"]}, "exactly one"),
    ],
)
def test_a_guide_that_no_worker_could_follow_is_refused_and_named(guide: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        _guided(guide)

    assert refused.value.field == "guided"
    assert "Value error" not in str(refused.value)


def test_a_schema_may_refer_to_places_inside_it_and_name_a_property_like_a_reference() -> None:
    schema = {"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}

    config = _guided({"json_schema": json.dumps(schema)})

    assert config.guided is not None
    assert config.guided.way == "json_schema"
