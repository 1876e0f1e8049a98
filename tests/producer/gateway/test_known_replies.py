"""Replies that are known to differ are not read again, and what is kept of them is bounded."""

from __future__ import annotations

from rollstream.producer.gateway.known_replies import KnownReplies


def test_a_batch_may_say_anything_until_its_replies_are_known() -> None:
    known = KnownReplies()
    before = known.may_say("b1", b"other")
    known.put("b1", [b"one", b"two"])

    assert before
    assert [known.may_say("b1", digest) for digest in (b"one", b"two", b"other")] == [True, True, False]


def test_beyond_the_most_digests_the_batch_that_nobody_asked_for_longest_is_forgotten() -> None:
    known = KnownReplies(most=3)
    for batch_id in ("b1", "b2", "b3"):
        known.put(batch_id, [b"one"])
    known.may_say("b1", b"one")
    known.put("b4", [b"one"])

    assert [known.may_say(batch_id, b"other") for batch_id in ("b1", "b2", "b3", "b4")] == [False, True, False, False]
