"""A server may open as many files as the system lets it, and says once that there are no more."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest

from rollstream.producer.http.open_files import RefusedConnections
from tests.support.command_line import run_python


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = run_python(
        "import resource\n"
        "from rollstream.producer.http.open_files import most_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(most_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    assert done.stdout.split() == ["300", "300", "300"]


async def test_connections_that_cannot_be_taken_are_told_once_and_other_errors_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, handler = asyncio.get_running_loop(), RefusedConnections()
    full = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    with caplog.at_level(logging.WARNING):
        for context in (full, full, {"message": "other"}, {"message": "other"}, full):
            handler(loop, context)

    told = [record.getMessage() for record in caplog.records]
    assert [("Too many open files" in text, "other" in text) for text in told] == [(True, False), *[(False, True)] * 2]
