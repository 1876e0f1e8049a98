"""Late stop ids end a completion once it has its `min_new_tokens`, and no request without them is looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.inside.late_stops import LATE_STOPS, end_late


class Rows(list[int]):
    """As vLLM's `LogprobsLists`."""

    def slice_request(self, start: int, length: int) -> list[int]:
        return self[start : start + length]


class Core:
    """As vLLM's EngineCore: each step gives one token of its one request, or `ahead` of them."""

    def __init__(self, tokens: list[int], ahead: int = 1, last: str | None = None, why: str | None = None) -> None:
        self.tokens, self.ahead, self.last, self.why = tokens, ahead, last, why
        self.scheduler = SimpleNamespace(requests={})
        self.aborted: list[str] = []

    def add_request(self, request: Any) -> None:
        self.scheduler.requests[request.request_id] = request

    def step(self) -> tuple[dict[int, Any] | None, bool]:
        if not self.tokens:
            return None, False
        found, self.tokens = self.tokens[: self.ahead], self.tokens[self.ahead :]
        output = SimpleNamespace(
            request_id="a",
            new_token_ids=found,
            new_logprobs=Rows(found),
            finish_reason=None if self.tokens else self.last,
            stop_reason=self.why,
        )
        return {0: SimpleNamespace(outputs=[output])}, True

    step_with_batch_queue = step

    def abort_requests(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            del self.scheduler.requests[name]


def core(tokens: list[int], late: list[int] | None, min_tokens: int = 2, **steps: Any) -> Any:
    kind = type("Core", (Core,), dict(vars(Core)))
    for _ in range(2):  # vLLM loads plugins more than once
        end_late(kind, "stop")
    engine = kind(tokens, **steps)
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


def test_a_late_stop_that_is_the_last_allowed_token_ends_with_stop() -> None:
    engine = core([7, 7, 7], [7], last="length")

    assert ends(engine, "step") == [(None, None), (None, None), ("stop", 7)]
    assert engine.aborted == [], "vLLM has ended it"


@pytest.mark.parametrize(
    ("tokens", "last", "left"),
    [
        ([7, 8, 6, 9, 6], None, [7, 8, 6]),
        ([7, 8, 6, 9, 6], "length", [7, 8, 6]),
        ([7, 7, 8, 9, 7], "length", [7, 7, 8, 9, 7]),
        ([7, 7, 8, 9, 9], None, None),
    ],
)
def test_what_was_guessed_ahead_of_a_late_stop_is_cut_off(
    tokens: list[int], last: str | None, left: list[int] | None
) -> None:
    engine = core(list(tokens), [6, 7], ahead=5, last=last)

    (output,) = engine.step()[0][0].outputs

    assert output.new_token_ids == output.new_logprobs == (left or tokens)
    assert (output.finish_reason, output.stop_reason) == (("stop", left[-1]) if left else (None, None))
    assert engine.aborted == (["a"] if left and not last else [])


def test_an_error_of_the_step_stays_an_error() -> None:
    engine = core([7, 8, 6, 9, 6], [6], ahead=5, last="error", why="logits-not-finite")

    assert ends(engine, "step") == [("error", "logits-not-finite")]


def test_a_request_without_late_stops_goes_on() -> None:
    engine = core([7, 7, 7, 7], None)

    assert ends(engine, "step") == [(None, None)] * 4


def test_an_aborted_request_is_forgotten() -> None:
    engine = core([8, 8], [7])
    engine.abort_requests(["a"])

    ends(engine, "step")

    assert engine.rollstream_late == {}
