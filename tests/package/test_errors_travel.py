"""Every error of ours comes back whole from pickle and copy, and handles and clients say what to send instead."""

from __future__ import annotations

import copy
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import rollstream
from rollstream import AsyncClient, Client, ConfigError, GenerationConfig, ResultTimeoutError, RolloutFunction
from rollstream.schemas import ErrorCode, GroupError, Turn
from rollstream.transport.weights import StoreProblem

SAMPLES: dict[str, Any] = {
    "str": "some text",
    "int": 7,
    "float": 1.5,
    "bool": True,
    "bytes": b"\x00\xff",
    "object": {"given": [1, 2.5]},
    "Path": Path("/some/folder"),
    "OSError": OSError(28, "No space left on device"),
    "ErrorCode": ErrorCode.TOO_LONG,
    "StoreProblem": StoreProblem.FULL,
    "Turn": Turn(batch_id="b", group=0, sample=1),
    "tuple[Turn, ...]": (Turn(batch_id="b", group=0, sample=1),),
    "tuple[int, ...]": (0, 2),
    "list[str]": ["a", "b"],
    "tuple[str, ...]": ("a", "b"),
    "dict[str, str]": {"gpu-1": "30"},
    "dict[str, tuple[int, str]]": {"gpu-1": (3, "refused")},
    "dict[int, GroupError]": {
        2: GroupError(batch_id="b", group=2, code="too_long", field="prompt", message="m", worker="w")
    },
}
"""A value for each type that a parameter of an error has."""


def every_error() -> list[type[Exception]]:
    """Found by walking the packages; what imports vLLM defines none, which is checked below."""
    for module in pkgutil.walk_packages(rollstream.__path__, "rollstream."):
        if not module.name.endswith("__main__") and not module.name.startswith("rollstream.worker.engines.vllm."):
            import_module(module.name)
    ours = {kind for kind in _descendants(Exception) if kind.__module__.partition(".")[0] == "rollstream"}
    return sorted(ours, key=lambda kind: (kind.__module__, kind.__name__))


def _descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def sample(kind: type[Exception]) -> Exception:
    if getattr(kind.__init__, "__module__", "builtins").partition(".")[0] != "rollstream":
        return kind("some text")  # Python's own or a library's: no fields of ours
    given = inspect.signature(kind.__init__).parameters
    return kind(**{name: _value(kind, str(one.annotation)) for name, one in given.items() if name != "self"})


def _value(kind: type[Exception], annotation: str) -> Any:
    name = annotation.removesuffix(" | None").partition(" | ")[0]
    assert name in SAMPLES, f"{kind.__name__} takes a {annotation}: add a sample of it to SAMPLES"
    return SAMPLES[name]


def assert_same(back: BaseException, error: BaseException) -> None:
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert repr(vars(back)) == repr(vars(error))


def test_errors_are_where_the_walk_finds_them() -> None:
    room = Path(*rollstream.__path__, "worker", "engines", "vllm")
    lines = [line for path in room.glob("*.py") for line in path.read_text().splitlines()]
    assert [line for line in lines if re.match(r"class \w+\(\w*(Error|Exception)\)", line)] == []
    assert len(every_error()) > 50


WAYS: list[Callable[[Any], Any]] = [
    *(lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6)),
    copy.copy,
    copy.deepcopy,
]


def test_every_error_comes_back_with_its_text_and_fields() -> None:
    for kind in every_error():
        error = sample(kind)
        error.add_note("seen by the trainer")
        for way in WAYS:
            assert_same(way(error), error)


def test_an_error_that_was_raised_from_another_comes_back() -> None:
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as cause:
            raise ResultTimeoutError("b1", 3, 8, 10.0) from cause
    except ResultTimeoutError as raised:
        error = raised
    assert_same(pickle.loads(pickle.dumps(error)), error)


def test_errors_in_a_group_come_back() -> None:
    group = ExceptionGroup(
        "two", [ConfigError("top_p", "bad", 3), ExceptionGroup("in", [ResultTimeoutError("b", 1, 2, 3)])]
    )
    back = pickle.loads(pickle.dumps(group))
    assert_same(back.exceptions[0], group.exceptions[0])
    assert_same(back.exceptions[1].exceptions[0], ResultTimeoutError("b", 1, 2, 3))


class OneWay(Exception):
    """It can be pickled but not unpickled, like any error whose `__init__` takes more than its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")


@pytest.mark.parametrize(
    "value", [lambda: 0, iter(lambda: 0, 1), OneWay(1, "x")], ids=["function", "iterator", "one way"]
)
def test_a_value_that_cannot_travel_travels_as_its_text(value: Any) -> None:
    error = ConfigError("config", "is required", value)
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.field) == (str(error), "config")
    assert back.value == f"some {type(value).__name__}"


def test_what_cannot_travel_is_told_inside_of_containers_too() -> None:
    error = ConfigError("config", "is required", {"top_p": [0.5, OneWay(1, "x")], "seed": OSError(28, iter("a"))})
    back = pickle.loads(pickle.dumps(error)).value
    assert back["top_p"] == [0.5, "some OneWay"]
    assert back["seed"].args == (28, "some str_ascii_iterator")


def test_a_value_that_holds_itself_travels() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    back = pickle.loads(pickle.dumps(ConfigError("config", "is required", loop))).value
    assert back[0] == 1
    assert back[1][0] == 1


def refused_in_a_child(name: str) -> None:
    GenerationConfig(max_new_tokens=4, **{name: lambda: 0})  # type: ignore[arg-type] # the mistake under test


def test_a_process_pool_gives_the_error_and_lives_on() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for name in ("temperature", "no_such_name"):
            with pytest.raises(ConfigError) as caught:
                pool.submit(refused_in_a_child, name).result(timeout=60)
            assert caught.value.field == name


def test_a_pickled_handle_or_client_says_what_to_send_instead(client: Client, policy: str) -> None:
    handle = client.submit([[1, 2]], None, GenerationConfig(max_new_tokens=2), batch_id="b1")
    for given in (handle, handle._awaited):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"send handle\.batch_id \('b1'\).*client\.attach\('b1'\)"):
                way(given)
    for held in (client, AsyncClient(policy=policy), RolloutFunction(client)):
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="make a client in each process"):
                way(held)
