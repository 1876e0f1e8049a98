"""Readings go on through what passes, and end with what does not."""

from __future__ import annotations

import os
import signal

import pytest

from rollstream.producer.cli.watch import Latest, repeat


async def test_an_error_that_is_not_redis_ends_it() -> None:
    async def read() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await repeat(lambda _: None, read, 0, 0.01)


async def test_each_reading_is_shown_until_a_signal() -> None:
    shown: list[int] = []

    def show(number: int) -> None:
        shown.append(number)
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    async def read() -> int:
        return shown[-1] + 1

    await repeat(show, read, 0, 0.01)
    assert shown[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("problem", "asked_at", "now", "down_s"),
    [("", 10.0, 10.5, None), ("", 10.0, 12.6, 3.6), ("", 8.0, 10.4, None), ("refused", 10.0, 10.5, 1.5)],
)
def test_a_reading_that_takes_long_counts_as_no_answer(
    problem: str, asked_at: float, now: float, down_s: float | None
) -> None:
    latest = Latest(value=0, read_at=9.0, asked_at=asked_at, problem=problem)
    down = latest.down(now, patience_s=2.0)
    assert (None if down is None else round(down.for_s, 3)) == down_s
    assert down is None or down.why == (problem or "no answer yet")
