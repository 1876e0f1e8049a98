"""Make a blocking call of an awaited one, with the same arguments, which are declared only at the awaited call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from .loop_thread import LoopThread

A = TypeVar("A")
B_co = TypeVar("B_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Blocking(Generic[B_co]):
    """An object whose calls are awaited, and the thread that awaits them for callers without an event loop."""

    def __init__(self, awaited: B_co, thread: LoopThread) -> None:
        self._awaited = awaited
        self._thread = thread


def blocking(
    what: str, call: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]
) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that awaits `call` in the thread. `what` names the call in errors."""

    def method(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(what, call(self._awaited, *args, **kwargs))

    return told_as(call, method)


def blocking_and_held(
    what: str,
    call: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
    held: Callable[[T, LoopThread], R],
) -> Callable[Concatenate[Blocking[A], P], R]:
    """The same for a call whose result has awaited calls itself: `held` makes an object of it and the thread."""

    def method(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return held(self._thread.run(what, call(self._awaited, *args, **kwargs)), self._thread)

    return told_as(call, method, getattr(held, "__name__", ""))


def told_as(call: Callable[..., Any], method: Callable[P, T], returns: str | None = None) -> Callable[P, T]:
    """Give `method` the name, docstring and parameters of `call`, for `help`; `returns`: another return type."""
    shown = inspect.signature(call)
    update_wrapper(method, call)
    vars(method)["__signature__"] = shown if returns is None else shown.replace(return_annotation=returns)
    return method
