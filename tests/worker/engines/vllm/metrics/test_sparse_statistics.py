"""Statistics leave EngineCore rarely, and nothing that they count is lost in between. Without vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from rollstream.worker.engines.vllm.metrics.sparse_statistics import (
    LONGEST_S,
    STEPS,
    STEPS_VARIABLE,
    Interval,
    send_rarely,
    tell,
    unfit,
)

FIELDS = ["num_spec_tokens", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos"]


@dataclass
class Speculation:
    """As vLLM's `SpecDecodingStats`."""

    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int


@dataclass
class Scheduler:
    """As vLLM's, with what it passes on at each step."""

    requests: dict[str, int] = field(default_factory=lambda: {"a": 1})

    def make_stats(self, spec_decoding_stats: Any = None, kv_connector_stats: Any = None) -> tuple[Any, Any]:
        return spec_decoding_stats, kv_connector_stats

    def step(self, speculation: Speculation | None = None) -> Any:
        """As `update_from_output`; None if the step sends no statistics."""
        return self.make_stats(speculation, "of the step")


def sparse(steps: int) -> Scheduler:
    class Sparse(Scheduler):
        """A class of its own, for it is changed."""

    send_rarely(Sparse, steps)
    send_rarely(Sparse, 1)
    return Sparse()


def test_they_leave_every_so_many_steps_also_after_a_second_call() -> None:
    scheduler = sparse(4)

    left = [scheduler.step() is not None for _ in range(10)]

    assert left == [True, False, False, False, True, False, False, False, True, False]


def test_what_a_draft_cost_and_brought_is_added_up() -> None:
    scheduler = sparse(4)
    scheduler.step(Speculation(1, 3, 2))

    left = [scheduler.step(one) for one in (Speculation(1, 3, 1), None, Speculation(2, 6, 0), Speculation(1, 3, 3))]

    assert left == [None, None, None, (Speculation(4, 12, 4), None)]
    assert [scheduler.step() for _ in range(4)][-1] == (None, None)


def test_they_leave_at_once_when_nothing_is_left_to_run() -> None:
    scheduler = sparse(100)
    scheduler.step()
    scheduler.step(Speculation(1, 3, 2))

    scheduler.requests.clear()

    assert scheduler.step() == (Speculation(1, 3, 2), None)


def test_an_engine_that_dies_says_all() -> None:
    scheduler = sparse(100)
    scheduler.step()

    assert scheduler.make_stats() == (None, None)


def test_slow_steps_send_them_once_a_second() -> None:
    now = 0.0
    interval = Interval(steps=100, clock=lambda: now)
    interval.end()

    interval.add(None)
    assert not interval.is_over()
    now = LONGEST_S
    assert interval.is_over()


@pytest.mark.parametrize(
    ("make_stats", "fields", "expected"),
    [
        (Scheduler.make_stats, FIELDS, []),
        (Scheduler.make_stats, FIELDS[:2], ["num_accepted_tokens", "num_draft_tokens"]),
        (Interval.end, FIELDS, ["spec_decoding_stats"]),
    ],
)
def test_what_another_vllm_lacks_is_named(make_stats: Any, fields: list[str], expected: list[str]) -> None:
    assert unfit(make_stats, fields) == expected


def test_a_process_without_the_flag_tells_its_engines_nothing() -> None:
    environment = {"OTHER": "1"}

    tell(environment, on=True)
    assert environment == {"OTHER": "1", STEPS_VARIABLE: str(STEPS)}
    tell(environment, on=False)
    assert environment == {"OTHER": "1"}
