"""Ends a chat template that runs for too long, in the thread that runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

_TEMPLATES = "<template>"
"""The file that jinja names for the code which it made of a template."""


class _TooSlowError(Exception):
    """Raised inside a template at its next line once its time is over. It never leaves this room."""


TOO_SLOW = _TooSlowError


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TOO_SLOW` in templates that this thread renders for longer than that.

    Only loops of the template itself can be without an end, so each line of its code looks at the clock; signals would
    do in the main thread only, and another process would cost more. One expression, such as `'a' * 10**10`, ends by
    itself, however long it takes.
    """
    end = monotonic() + seconds

    def at_line(_frame: FrameType, _event: str, _argument: Any) -> Any:
        if monotonic() > end:
            raise _TooSlowError
        return at_line

    def at_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return at_line if frame.f_code.co_filename == _TEMPLATES else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)
