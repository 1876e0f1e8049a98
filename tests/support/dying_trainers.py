"""Trainers that die in the middle of a submit."""

from __future__ import annotations

from typing import Any

import pytest


class DiedError(Exception):
    """Raised where a trainer dies in a test."""


def dies_before_queueing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_args: Any) -> None:
        raise DiedError

    monkeypatch.setattr("rollstream.producer.batches.submit_and_wait.enqueue", die)
