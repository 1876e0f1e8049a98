"""A constructor of several arguments takes keywords: a call says what it gives, and a new argument has a place."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.worker_process import ROOT

PACKAGES = ("schemas", "transport", "producer", "worker")
VALUES = {"EntryId": 2, "Blocking": 2, "TurnPool": 2}
"""Positional arguments of the few classes that have more than one: a pair that reads as one value, a base class whose
subclasses are called by one function, a subclass of redis-py's pool."""


def positional(node: ast.ClassDef) -> list[str] | None:
    """Arguments of the constructor that may be given without a name; None where the class has no constructor of its
    own, or one that is not ours to choose: an exception's or a named tuple's."""
    bases = " ".join(ast.unparse(base) for base in node.bases)
    if any(word in bases for word in ("Error", "Exception", "NamedTuple", "TypedDict", "Protocol", "Message")):
        return None
    for decorator in node.decorator_list:
        if "dataclass" in ast.unparse(decorator):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            given = [ast.unparse(one) for one in fields if "kw_only=True" not in ast.unparse(one)]
            return [] if "kw_only=True" in ast.unparse(decorator) else given
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return [one.arg for one in method.args.args[1:]]
    return None


def constructors() -> Iterator[tuple[str, str, list[str]]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and (given := positional(node)) is not None:
                    yield str(path.relative_to(ROOT)), node.name, given


def test_a_constructor_takes_at_most_one_argument_without_a_name() -> None:
    found = list(constructors())

    assert len(found) > 100
    assert [one for one in found if len(one[2]) > VALUES.get(one[1], 1)] == []


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("class A:\n def __init__(self, a, b): ...", ["a", "b"]),
        ("class A:\n def __init__(self, a, *, b): ...", ["a"]),
        ("@dataclass(frozen=True)\nclass A:\n a: int\n b: int", ["a: int", "b: int"]),
        ("@dataclass(kw_only=True)\nclass A:\n a: int", []),
        ("class AError(Exception):\n def __init__(self, a, b): ...", None),
    ],
)
def test_what_may_be_given_without_a_name_is_seen(source: str, given: list[str] | None) -> None:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    assert positional(node) == given
