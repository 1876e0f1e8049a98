"""Names of our fields, and texts that have them, in the words of a client. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

THEIRS: Mapping[str, str] = {
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "min_new_tokens": "min_tokens",
    "max_new_tokens": "max_tokens",
    "adapter": "model",
    "guided": "response_format",
}
"""Parameters by our fields. A request may have others in their place (`Asked.words`)."""
_FIELD = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_OPERATORS_WAY = ", or start the worker with a larger --max-model-len"


def in_words(text: str, words: Mapping[str, str]) -> str:
    """An error's text with the parameters that the client knows, and without advice that it cannot follow."""
    told = {**THEIRS, **words}
    return _FIELD.sub(lambda found: told.get(found[0], found[0]), text.replace(_OPERATORS_WAY, ""))
