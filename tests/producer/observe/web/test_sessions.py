"""A session holds for its time and its token."""

from __future__ import annotations

import pytest

from rollstream.producer.observe.web.sessions import SESSION_S, Sessions

TOKEN = "0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_after_its_time_and_outlives_a_restart() -> None:
    clock = Clock()
    session = Sessions(token=TOKEN, clock=clock).begin()
    again = Sessions(token=TOKEN, clock=clock)

    assert again.is_valid(session)
    clock.now += SESSION_S + 1
    assert not again.is_valid(session)


def test_a_session_tells_nothing_of_the_token_and_no_two_are_the_same() -> None:
    sessions = Sessions(token=TOKEN)
    assert TOKEN not in sessions.begin() + sessions.csrf(sessions.begin())
    assert sessions.begin() != sessions.begin()


@pytest.mark.parametrize("session", ["", ".", "..", "x", "inf.0.0", "\ud800.0.0", "1" * 5000])
def test_what_was_never_a_session_is_none(session: str) -> None:
    assert not Sessions(token=TOKEN).is_valid(session)
    assert not Sessions(token=None).is_valid(session)


def test_a_later_time_written_into_a_session_makes_it_worthless() -> None:
    sessions = Sessions(token=TOKEN)
    until, _, rest = sessions.begin().partition(".")
    assert not sessions.is_valid(f"{int(until) + 1}.{rest}")
