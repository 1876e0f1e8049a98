"""The turn that a request goes on from is found by what was asked and what was replied."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.producer.gateway.chat import (
    Candidate,
    Reply,
    ToolCall,
    answers,
    asked,
    candidates,
    checked_messages,
    reply_digest,
)
from tests.support.chat.replies import TOOLS

USER, MORE = {"role": "user", "content": "q"}, {"role": "user", "content": "more"}
CALL = ToolCall(id="call_1", name="weather", arguments='{"city": "Rom", "days": 2}')
EVEN = {"city": "Rom", "days": 2.0}


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def made(arguments: str) -> Reply:
    return Reply(content=None, tool_calls=(ToolCall(id="call_1", name="weather", arguments=arguments),))


def called(arguments: str) -> dict[str, Any]:
    return made(arguments).message()


def test_the_longest_and_then_the_latest_turn_comes_first() -> None:
    messages = checked_messages([USER, said("a"), MORE, said("b"), MORE])
    turns = [("first", asked(messages[:1])), ("again", asked(messages[:1])), ("second", asked(messages[:3]))]

    found = candidates(turns, messages)

    assert found == [
        Candidate(turn="second", length=3),
        Candidate(turn="again", length=1),
        Candidate(turn="first", length=1),
    ]


@pytest.mark.parametrize(
    ("messages", "tools", "options"),
    [
        ([{"role": "user", "content": "Q"}, said("a"), MORE], (), {}),
        ([{"role": "user", "content": "q", "name": "n"}, said("a"), MORE], (), {}),
        ([USER, MORE], (), {}),
        ([USER], (), {}),
        ([USER, said("a"), MORE], TOOLS, {}),
        ([USER, said("a"), MORE], (), {"enable_thinking": False}),
    ],
)
def test_what_was_asked_otherwise_is_no_candidate(messages: list[Any], tools: Any, options: dict[str, Any]) -> None:
    assert candidates([("turn", asked([USER]))], checked_messages(messages), tools, options) == []


def test_a_note_that_is_none_of_ours_is_passed_over() -> None:
    messages = checked_messages([USER, said("a"), MORE])

    assert candidates([("turn", b""), ("turn", b"\xff" * 100)], messages) == []


def test_what_a_client_changes_in_earlier_replies_does_not_matter() -> None:
    """The thought is left out, ids of calls are made new, and JSON is written again in another order."""
    calls = [{"id": "c9", "function": {"name": "weather", "arguments": '{"days":2,"city":"Rom"}'}}]
    before = [USER, Reply(content=None, tool_calls=(CALL,), reasoning="t").message()]
    after = [USER, said("", tool_calls=calls)]
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "12"}
    again = {"role": "tool", "tool_call_id": "c9", "content": "12"}

    note = asked(checked_messages([*before, answer]), TOOLS)
    messages = checked_messages([*after, again, said("fine"), MORE])

    assert candidates([("turn", note)], messages, TOOLS) == [Candidate(turn="turn", length=3)]


@pytest.mark.parametrize(
    ("message", "reply", "same"),
    [
        (said("a"), Reply(content="a"), True),
        (said("a "), Reply(content="\n a"), True),
        (said(None), Reply(content=""), True),
        (said("a"), Reply(content="a", reasoning="t"), True),
        (said("a"), Reply(content="b"), False),
        (said("a"), Reply(content="a", tool_calls=(CALL,)), False),
        (said(None, tool_calls=[CALL.as_json()]), Reply(content=None, tool_calls=(CALL,)), True),
        (said(None, tool_calls=[CALL.as_json()]), Reply(content=None), False),
        (
            said(None, tool_calls=[{**CALL.as_json(), "function": {"name": "weather", "arguments": EVEN}}]),
            Reply(content=None, tool_calls=(CALL,)),
            True,
        ),
        (
            said(None, tool_calls=[{**CALL.as_json(), "function": {"name": "weather", "arguments": {"city": "Rome"}}}]),
            Reply(content=None, tool_calls=(CALL,)),
            False,
        ),
        (called('{"on": true, "days": 1}'), made('{"on": true, "days": 1}'), True),
        (called('{"on": true, "days": 1}'), made('{"on": 1, "days": 1}'), False),
        (called('{"on": false}'), made('{"on": 0}'), False),
        (called('{"on": [1]}'), made('{"on": [true]}'), False),
    ],
)
def test_a_message_is_known_as_the_reply_that_it_was(message: Any, reply: Reply, same: bool) -> None:
    assert answers(message, reply) is same
    assert (reply_digest(message) == reply_digest(reply.message())) is same


def test_a_digest_fits_a_note_and_never_changes() -> None:
    """Turns of yesterday are found by what was computed yesterday."""
    note = asked(checked_messages([USER, said("ü"), MORE]), TOOLS, {"enable_thinking": False})

    assert len(note) < 100
    assert note == b"chat 1 " + note[7:]
    assert note.decode().split()[-1][:16] == "2f4f83be1876963b"
