"""What a checked message and a checked tool are."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""A message as OpenAI's API has it: `role`, `content` (text or None), and what its role may have beside them."""
Tool = dict[str, Any]
"""A tool as OpenAI's API has it: `{"type": "function", "function": {"name": ..., "parameters": ...}}`.

With `strict: True` beside these two its calls are held to its parameters; a template never sees that.
"""
MOST_CALLS = 128
"""Calls of one message."""
