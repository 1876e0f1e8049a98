"""What the tests of kept completions share."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is cancelled while it reads ends with that read: redis-py may forget the cancellation."""
    monkeypatch.setattr("rollstream.worker.intake.make_consumer.BLOCK_MS", 100)
