"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3."""

from __future__ import annotations

import re

from .parsed import Known, Parsed, call_of_text, read_marked

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply. The last one may lack its end, as it does where the end of turn came instead."""
    return read_marked(text, _CALL, lambda match: call_of_text(match[1], known))
