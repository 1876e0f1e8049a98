"""Requests that are held back are put back as they were; what this cannot do in some vLLM it refuses by name."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from rollstream.worker.engines.vllm.inside.held_requests import hold, hold_on_demand, release


class Request:
    def __init__(self, request_id: str, *, finished: bool = False) -> None:
        self.request_id = request_id
        self.finished = finished

    def is_finished(self) -> bool:
        return self.finished


class Queue(deque[Request]):
    """Like vLLM's queue of requests in the order of their arrival."""

    def add_request(self, request: Request) -> None:
        self.append(request)

    def prepend_request(self, request: Request) -> None:
        self.appendleft(request)

    def remove_requests(self, requests: list[Request]) -> None:
        kept = [one for one in self if one not in requests]
        self.clear()
        self.extend(kept)


class Scheduler:
    """The part of vLLM's scheduler that matters here."""

    def __init__(self, *names: str) -> None:
        self.waiting, self.skipped_waiting = Queue(), Queue()
        self.deferred_waiting: set[Request] = set()
        self.running: list[Request] = []
        self.requests: dict[str, Request] = {}
        self.pause_state = 2
        self.connector: object = None
        for name in names:
            self.add_request(Request(name))

    def _enqueue_waiting_request(self, request: Request) -> None:
        self.waiting.add_request(request)

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self._enqueue_waiting_request(request)

    def abort(self, name: str) -> None:
        self.requests.pop(name).finished = True


class Engine:
    def __init__(self, *names: str) -> None:
        self.scheduler = Scheduler(*names)

    def is_scheduler_paused(self) -> bool:
        return bool(self.scheduler.pause_state)


def waiting(engine: Engine) -> list[str]:
    return [request.request_id for request in engine.scheduler.waiting]


def test_a_probe_alone_waits_during_a_hold_and_all_others_in_their_order_after_it() -> None:
    engine = Engine("a", "b", "c")
    skipped = Request("s")
    engine.scheduler.requests["s"] = skipped
    engine.scheduler.skipped_waiting.append(skipped)
    engine.scheduler.deferred_waiting = {skipped}

    hold(engine, "probe/")
    for name in ("probe/0-x", "d", "e"):
        engine.scheduler.add_request(Request(name))
    assert waiting(engine) == ["probe/0-x"]
    assert not engine.scheduler.skipped_waiting
    assert not engine.scheduler.deferred_waiting
    for name in ("b", "d"):
        engine.scheduler.abort(name)
    release(engine)

    assert waiting(engine) == ["a", "c", "probe/0-x", "e"]
    assert list(engine.scheduler.skipped_waiting) == [skipped]
    assert engine.scheduler.deferred_waiting == {skipped}
    engine.scheduler.add_request(Request("f"))
    assert waiting(engine)[-1] == "f"


def test_a_request_that_comes_again_under_the_id_of_an_aborted_one_waits_once() -> None:
    engine = Engine("a")
    hold(engine, "probe/")
    engine.scheduler.abort("a")
    engine.scheduler.add_request(Request("a"))

    release(engine)

    assert waiting(engine) == ["a"]
    assert engine.scheduler.waiting[0] is engine.scheduler.requests["a"]


def test_a_second_hold_and_a_second_release_do_nothing() -> None:
    engine = Engine("a")
    release(engine)
    for _ in range(2):
        hold(engine, "probe/")
    for _ in range(2):
        release(engine)

    assert waiting(engine) == ["a"]


def running(engine: Engine) -> None:
    engine.scheduler.running.append(Request("r"))


def unpaused(engine: Engine) -> None:
    engine.scheduler.pause_state = 0


def elsewhere(engine: Engine) -> None:
    engine.scheduler.requests["hidden"] = Request("hidden")


def connected(engine: Engine) -> None:
    engine.scheduler.connector = object()


def other_vllm(engine: Engine) -> None:
    del engine.scheduler.requests


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (running, "only in a paused engine"),
        (unpaused, "only in a paused engine"),
        (elsewhere, "1 are in no waiting queue, e.g. hidden"),
        (connected, "beside a KV or encoder connector"),
        (other_vllm, "its scheduler has no requests"),
    ],
)
def test_an_engine_that_could_sample_for_others_refuses_a_hold_and_stays_as_it_is(make: Any, says: str) -> None:
    engine = Engine("a")
    make(engine)

    with pytest.raises(RuntimeError, match=says):
        hold(engine, "probe/")

    assert waiting(engine) == ["a"]
    release(engine)


def test_a_class_gets_the_utilities_once_however_often_it_is_asked() -> None:
    for _ in range(2):
        hold_on_demand(Engine)
    engine: Any = Engine("a")

    assert engine.rollstream_hold_doubt() == ""
    engine.rollstream_hold("probe/")
    assert not waiting(engine)
    engine.rollstream_release()
    assert waiting(engine) == ["a"]
