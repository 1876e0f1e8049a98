"""Every report fits a terminal of any width: words stay whole, also where all names are long."""

from __future__ import annotations

import pytest

from rollstream import Client
from tests.support.command_line import Command
from tests.support.faults import Queue
from tests.support.watching.crowded import crowd
from tests.support.watching.fitting import LONG, UNBROKEN, WIDTHS, check

REPORTS = (
    ("status",),
    ("top", "--once"),
    ("batches", "--all"),
    ("dead", "ls"),
    ("dead", "show"),
    ("doctor",),
    ("versions",),
    ("replay", "--dead", "--dry-run", "--continue", "one"),
    ("replay", "--batch", "half", "--dry-run", "--continue", "one"),
)


def _printed(command: Command, args: tuple[str, ...], queue: Queue, width: int) -> list[str]:
    command.env["COLUMNS"] = str(width)
    letters = [entry_id.decode() for entry_id, _ in queue.redis.xrange(queue.keys.dead(0))]  # type: ignore[union-attr] # it blocks
    done = command(*args, *(letters[:1] if args == ("dead", "show") else []))
    assert done.exit_code in {0, 1}, done.output
    assert "Traceback (most" not in done.output
    return [line for line in done.stdout.splitlines() if not line.startswith(("read ", "Redis "))]


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("args", REPORTS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(
    args: tuple[str, ...], client: Client, queue: Queue, command: Command, redis_url: str
) -> None:
    crowd(client, queue, redis_url, lambda field: f"{field}-{LONG}")
    reference = _printed(command, args, queue, UNBROKEN)
    for width in WIDTHS:
        check(_printed(command, args, queue, width), width, reference)
