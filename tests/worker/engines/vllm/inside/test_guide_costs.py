"""A guide that takes too much of a processor ends its request, and no other. Without vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.inside.guide_costs import A_TOKEN_S, ALLOWED_S, TOO_SLOW, bound, tell


class Clock:
    """The time that calls below take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def guides(clock: Clock, accept_s: float, fill_s: float) -> type[Any]:
    class Grammar:
        def accept_tokens(self, _request_id: str, tokens: list[int]) -> bool:
            clock.now += accept_s
            return tokens != [13]

        def fill_bitmask(self, *_args: Any) -> None:
            clock.now += fill_s

    bound(Grammar, clock=clock)
    bound(Grammar, clock=clock)
    return Grammar


def steps(guide: Any, limit: int) -> Iterator[int]:
    """The steps until the guide refuses a token."""
    for number in range(limit):
        guide.fill_bitmask(None, 0)
        if not guide.accept_tokens("a", [5]):
            yield number
            return


@pytest.mark.parametrize(("accept_s", "fill_s"), [(0.1, 0.0), (0.0, 0.1), (0.05, 0.05)])
def test_a_guide_is_refused_once_it_has_spent_what_it_may(accept_s: float, fill_s: float) -> None:
    guide = guides(Clock(), accept_s, fill_s)()

    (number,) = steps(guide, 100)

    assert number == pytest.approx(ALLOWED_S / (0.1 - A_TOKEN_S), abs=2)


def test_a_guide_that_takes_no_longer_than_each_token_may_goes_on() -> None:
    guide = guides(Clock(), A_TOKEN_S / 2, A_TOKEN_S / 2)()

    assert list(steps(guide, 10_000)) == []


def test_guides_are_judged_each_by_itself_and_a_wrong_token_stays_wrong() -> None:
    clock = Clock()
    grammar = guides(clock, ALLOWED_S / 2 + 0.01, 0.0)
    slow, other = grammar(), grammar()

    assert slow.accept_tokens("a", [5])
    assert not slow.accept_tokens("a", [5])
    assert other.accept_tokens("b", [5])
    assert not grammar().accept_tokens("c", [13])


def test_the_end_of_such_a_request_says_why_and_the_end_of_others_does_not() -> None:
    class Core:
        scheduler = SimpleNamespace(requests={})

        def step(self) -> Any:
            outputs = [SimpleNamespace(request_id=name, stop_reason=None) for name in ("a", "b")]
            return {0: SimpleNamespace(outputs=outputs)}, True

        step_with_batch_queue = step

    grammar = guides(Clock(), ALLOWED_S + 1, 0.0)
    tell(Core, grammar)
    grammar().accept_tokens("a", [5])

    outputs, _ = Core().step_with_batch_queue()
    again, _ = Core().step()

    assert [output.stop_reason for output in outputs[0].outputs] == [TOO_SLOW, None]
    assert [output.stop_reason for output in again[0].outputs] == [None, None]
