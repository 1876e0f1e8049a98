"""Workers that measure their speed sooner, for tests in which a day takes minutes."""

from __future__ import annotations

import os

from rollstream.worker.operations import rate_meter

MEASURED_S = "TESTS_MEASURED_S"
"""Environment variable: seconds of work after which a stub worker tells how fast it is."""


def install() -> None:
    """In the worker's process, before it starts."""
    if (seconds := os.environ.get(MEASURED_S)) is not None:
        rate_meter.MEASURED_S = float(seconds)
