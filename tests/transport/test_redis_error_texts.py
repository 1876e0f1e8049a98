"""What redis-py says of a lost connection becomes a part of a sentence."""

from __future__ import annotations

import pytest
from redis import exceptions

from rollstream.transport.redis.faults import text_of

REFUSED = "[Errno 111] Connect call failed"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Error 111 connecting to 127.0.0.1:1. Connect call failed ('127.0.0.1', 1).",
            "Error 111 connecting to 127.0.0.1:1: Connection refused",
        ),
        (
            f"Error Multiple exceptions: {REFUSED} ('::1', 1, 0, 0), {REFUSED} ('127.0.0.1', 1) connecting to a.b:1.",
            "Error 111 connecting to a.b:1: Connection refused",
        ),
        (
            "Error -2 connecting to no.host:6379. Name or service not known.",
            "Error -2 connecting to no.host:6379: Name or service not known",
        ),
        (
            "Error 2 connecting to /run/my redis.sock. No such file or directory.",
            "Error 2 connecting to /run/my redis.sock: No such file or directory",
        ),
        ("Error 32 while writing to socket. Broken pipe.", "Error 32 while writing to socket: Broken pipe"),
        (
            "Error while reading from 127.0.0.1:1 : (104, 'Connection reset by peer')",
            "Error while reading from 127.0.0.1:1: Connection reset by peer",
        ),
        ("Error while reading from h:1: ('closed',)", "Error while reading from h:1: closed"),
        ("Connection closed by server.", "Connection closed by server"),
        ("Timeout connecting to server", "Timeout connecting to server"),
        ("max number of clients\nreached", "max number of clients reached"),
        ("", "ConnectionError"),
    ],
)
def test_the_text_is_part_of_a_sentence(said: str, told: str) -> None:
    assert text_of(exceptions.ConnectionError(said)) == told
