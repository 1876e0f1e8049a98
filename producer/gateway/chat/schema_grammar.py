"""The grammar of a strict tool's arguments: what it allows, the tool's schema takes.

It may allow less than the schema: members in the order of the schema, and no others where it names some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

from rollstream.schemas.generation.generation_parts import MAX_GUIDE_CHARS

from .errors import ChatRequestError
from .integer_ranges import integers
from .strict_schema import NOTES, problem_of, referred

_LEVELS = 16
"""Objects and lists within each other, where a schema does not say what they are."""
_CONTAINERS = """\
object{0} ::= "{{" space (pair{0} (space "," space pair{0})*)? space "}}"
pair{0} ::= string space ":" space value{1}
array{0} ::= "[" space (value{1} (space "," space value{1})*)? space "]"
value{0} ::= object{0} | array{0} | plain
"""
_TEXTS_AND_NUMBERS = r"""
plain ::= string | number | "true" | "false" | "null"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] hex hex hex | [dD] [0-7] hex hex))
hex ::= [0-9a-fA-F]
number ::= integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
integer ::= "-"? ("0" | [1-9] [0-9]{0,14})
space ::= " "?
"""
_NESTED = "".join(_CONTAINERS.format(level, level + 1) for level in range(_LEVELS))
_JSON = f"object ::= object0\nvalue ::= value0\n{_NESTED}value{_LEVELS} ::= plain{_TEXTS_AND_NUMBERS}"
"""Any JSON that everybody reads as the same: finite numbers, no halves of characters, and not too deep for a parser.

One thing no grammar holds: that an object has each name once.
"""
_PLAIN = {"boolean": '("true" | "false")', "null": '"null"'}
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ABOUT: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": _BOUNDS,
}
"""Keywords by the values that they ask something of."""
_ALONE = ("$ref", "anyOf", "allOf")
_FAR = 10**18
_MOST_REPEATS = 1000
"""Larger bounds on lengths make a grammar too slow."""


def quoted(text: str) -> str:
    """The text as a grammar has it."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _spelled(value: object) -> str:
    """The value as JSON; empty where that has no such number."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return ""


class SchemaRules:
    """Collects the rules of a grammar. All raise `ChatRequestError`, with the place, for what no rule can hold."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._named: dict[str, str] = {}
        self._size = 0
        self._root: Mapping[str, Any] = {}

    @property
    def text(self) -> str:
        """The rules that were made, and those of any JSON, of which `object` is one."""
        return "\n".join([*self._rules, _JSON])

    def arguments(self, schema: Mapping[str, Any], place: str) -> str:
        """The rule of a tool's arguments, which are an object; the schema was checked (`check_strict`)."""
        if schema.get("type", "object") != "object" or any(name in schema for name in (*_ALONE, "enum", "const")):
            raise _refused(place, "is no plain object")
        self._root, self._named = schema, {}
        try:
            return self._object(schema, place)
        except RecursionError:
            raise _refused(place, "has too many levels") from None

    def _rule(self, body: str) -> str:
        self._size += len(body)
        if self._size > MAX_GUIDE_CHARS:
            raise too_long()
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name} ::= {body}")
        return name

    def _value(self, schema: Mapping[str, Any], place: str, open_refs: frozenset[str] = frozenset()) -> str:
        """`open_refs`: references that lead here without a value in between, which would be endless."""
        asks = {name for name in schema if name not in NOTES}
        if alone := next((name for name in _ALONE if name in asks), ""):
            if len(asks) > 1 or (alone == "allOf" and len(schema[alone]) > 1):
                raise _refused(place, f"has {alone!r} beside other conditions")
            return self._joined(alone, schema[alone], place, open_refs)
        if "enum" in asks or "const" in asks:
            return self._one_of(schema, place)
        types = schema.get("type") or next((kind for kind, about in _ABOUT.items() if asks & about), "any")
        return " | ".join(
            self._typed(name, schema, place) for name in dict.fromkeys(types if isinstance(types, list) else [types])
        )

    def _one_of(self, schema: Mapping[str, Any], place: str) -> str:
        name = "enum" if "enum" in schema else "const"
        listed = schema["enum"] if name == "enum" else [schema["const"]]
        defined = {name: self._root[name] for name in ("$defs", "definitions") if name in self._root}
        others = {**defined, **schema}
        del others[name]  # a value need not be looked for in its own list
        found = [one for one in map(_spelled, (one for one in listed if not problem_of(one, others))) if one]
        if not found:
            raise _refused(place, "takes no value")
        return " | ".join(map(quoted, found))

    def _joined(self, name: str, given: Any, place: str, open_refs: frozenset[str]) -> str:
        if name != "$ref":
            ways = [self._value(one, f"{place}.{name}[{i}]", open_refs) for i, one in enumerate(given)]
            return self._rule(" | ".join(dict.fromkeys(ways)))
        if given in open_refs:
            raise _refused(place, "has a $ref that leads to itself")
        if given not in self._named:
            at = len(self._rules)
            self._named[given] = self._rule("")
            target = self._root if given == "#" else referred(given, self._root) or {}
            body = self._value(target, place, open_refs | {given})
            self._rules[at] += body
            self._size += len(body)
        return self._named[given]

    def _typed(self, kind: str, schema: Mapping[str, Any], place: str) -> str:
        match kind:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return self._rule(f'"\\"" char{_repeated(schema, "Length", place)} "\\""')
            case "integer":
                return self._rule(_integers(schema, place))
            case "number" if _BOUNDS & schema.keys():
                raise _refused(place, "is a number with bounds")
            case "any":
                return "value"
            case _:
                return _PLAIN.get(kind, kind)

    def _array(self, schema: Mapping[str, Any], place: str) -> str:
        item = self._rule(self._value(schema.get("items", {}), f"{place}.items"))
        least, most = _bounds(schema, "Items", place)
        if most == 0:
            return '"[" space "]"'
        times = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        more = "" if most == 1 else f'(space "," space {item}){times}'
        some = f"{item} {more}" if least else f"({item} {more})?"
        return self._rule(f'"[" space {some} space "]"')

    def _object(self, schema: Mapping[str, Any], place: str) -> str:
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        needed = dict.fromkeys(schema.get("required", []))
        if more is False and any(name not in known for name in needed):
            raise _refused(place, "requires what it does not have")
        if not known and not needed:
            if more is False:
                return self._rule('"{" space "}"')
            value = self._rule(self._value(more if isinstance(more, dict) else {}, f"{place}.additionalProperties"))
            pair = f'string space ":" space {value}'
            return self._rule(f'"{{" space ({pair} (space "," space {pair})*)? space "}}"')
        others = {name: more if isinstance(more, dict) else {} for name in needed if name not in known}
        pairs = [
            (self._pair(name, one, f"{place}.properties.{name[:80]}"), name in needed)
            for name, one in {**known, **others}.items()
        ]
        return self._members(pairs)

    def _pair(self, name: str, schema: Mapping[str, Any], place: str) -> str:
        key = quoted(json.dumps(name, ensure_ascii=False))
        return self._rule(f'{key} space ":" space ({self._value(schema, place)})')

    def _members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """The pairs in their order, of which those that are not needed may be missing.

        Two rules a place: with or without a pair before it, which is what a comma stands between.
        """
        first, behind = '""', '""'
        for pair, is_needed in reversed(pairs):
            rest = self._rule(behind)
            after = f'space "," space {pair} {rest}'
            if is_needed:
                first, behind = f"{pair} {rest}", after
            else:
                first, behind = f"{pair} {rest} | {self._rule(first)}", f"{after} | {rest}"
        return self._rule(f'"{{" space ({first}) space "}}"')


def _bounds(schema: Mapping[str, Any], what: str, place: str) -> tuple[int, int | None]:
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    if max(least, most or 0) > _MOST_REPEATS:
        raise _refused(place, f"has a bound of more than {_MOST_REPEATS} in its {what.lower()}")
    if most is not None and most < least:
        raise _refused(place, "takes no value")
    return least, most


def _repeated(schema: Mapping[str, Any], what: str, place: str) -> str:
    least, most = _bounds(schema, what, place)
    return "*" if (least, most) == (0, None) else f"{{{least},{'' if most is None else most}}}"


def _integers(schema: Mapping[str, Any], place: str) -> str:
    given = {name: max(min(schema[name], _FAR), -_FAR) for name in _BOUNDS if name in schema}
    if not given:
        return "integer"
    lows = [ceil(given["minimum"])] if "minimum" in given else []
    lows += [floor(given["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in given else []
    highs = [floor(given["maximum"])] if "maximum" in given else []
    highs += [ceil(given["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in given else []
    found = integers(max(lows, default=None), min(highs, default=None))
    if not found:
        raise _refused(place, "takes no value")
    return found


def too_long() -> ChatRequestError:
    """The error for tools whose grammar no worker takes."""
    told = f"their grammar has more than {MAX_GUIDE_CHARS} characters: force a call of fewer, or of smaller schemas"
    return ChatRequestError("tools", "unsupported_schema", told)


def _refused(place: str, problem: str) -> ChatRequestError:
    told = f"{problem}, to which a forced call cannot be held: change it, leave strict out, or give tool_choice auto"
    return ChatRequestError(place, "unsupported_schema", told)
