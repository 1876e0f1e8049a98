"""Late stop ids end a completion once it has its `min_new_tokens`, and no request without them is looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.vllm_late_stops import LATE_STOPS, end_late


class Core:
    """As vLLM's EngineCore: each step gives one token of its one request."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.scheduler = SimpleNamespace(requests={})
        self.aborted: list[str] = []

    def add_request(self, request: Any) -> None:
        self.scheduler.requests[request.request_id] = request

    def step(self) -> tuple[dict[int, Any] | None, bool]:
        if not self.tokens:
            return None, False
        output = SimpleNamespace(
            request_id="a", new_token_ids=[self.tokens.pop(0)], finish_reason=None, stop_reason=None
        )
        return {0: SimpleNamespace(outputs=[output])}, True

    step_with_batch_queue = step

    def abort_requests(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            del self.scheduler.requests[name]


def core(tokens: list[int], late: list[int] | None, min_tokens: int = 2) -> Any:
    kind = type("Core", (Core,), dict(vars(Core)))
    for _ in range(2):  # vLLM loads plugins more than once
        end_late(kind, "stop")
    engine = kind(tokens)
    params = SimpleNamespace(extra_args=None if late is None else {LATE_STOPS: late}, min_tokens=min_tokens)
    engine.add_request(SimpleNamespace(request_id="a", sampling_params=params))
    return engine


def ends(engine: Any, step: str) -> list[Any]:
    found = []
    while (outputs := getattr(engine, step)()[0]) is not None:
        found += [(output.finish_reason, output.stop_reason) for output in outputs[0].outputs]
    return found


@pytest.mark.parametrize("step", ["step", "step_with_batch_queue"])
@pytest.mark.parametrize(
    ("tokens", "end"),
    [([7, 8, 7], 2), ([7, 7, 8, 9, 7], 4), ([7, 7], None), ([8, 8, 8], None), ([8, 8, 6], 2)],
)
def test_a_late_stop_ends_after_min_new_tokens_alone(step: str, tokens: list[int], end: int | None) -> None:
    engine = core(list(tokens), [6, 7])

    found = ends(engine, step)

    assert [number for number, one in enumerate(found) if one != (None, None)] == ([] if end is None else [end])
    assert end is None or found[end] == ("stop", tokens[end])
    assert engine.aborted == ([] if end is None else ["a"])


def test_a_request_without_late_stops_goes_on() -> None:
    engine = core([7, 7, 7, 7], None)

    assert ends(engine, "step") == [(None, None)] * 4


def test_an_aborted_request_is_forgotten() -> None:
    engine = core([8, 8], [7])
    engine.abort_requests(["a"])

    ends(engine, "step")

    assert engine.rollstream_late == {}
