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
        ({"json": "{}"}, "unknown name 'json'; write 'json_schema'"),
        ({"choices": ["a"]}, "write 'choice'"),
        ({"wish": "a"}, "unknown name 'wish'; give one of regex, json_schema, choice, grammar"),
    ],
)
def test_a_guide_that_no_worker_could_follow_is_refused_and_named(guide: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        _guided(guide)

    assert refused.value.field == "guided"
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (["a"], "a dict or its JSON text, not some list"),
        ({"a": {"b": object()}}, "no JSON: .*object is not JSON serializable"),
        ({"a": float("nan")}, "no JSON: .*Out of range float"),
        ({"a": "b" * 70_000}, "at most 65536 characters"),
    ],
)
def test_a_schema_that_is_no_json_is_refused_by_name(schema: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        _guided({"json_schema": schema})

    assert refused.value.field == "guided.json_schema"


def test_a_dict_as_schema_becomes_its_text_in_the_order_of_its_properties() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["ä", None]}}}

    guided = _guided({"json_schema": schema}).guided

    assert guided is not None
    assert guided.json_schema is not None
    assert json.loads(guided.json_schema) == schema
    assert guided.json_schema.index('"b"') < guided.json_schema.index('"a"')
    assert _guided({"json_schema": guided.json_schema}).guided == guided


def test_a_schema_may_refer_to_places_inside_it_and_name_a_property_like_a_reference() -> None:
    schema = {"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}

    config = _guided({"json_schema": json.dumps(schema)})

    assert config.guided is not None
    assert config.guided.way == "json_schema"
