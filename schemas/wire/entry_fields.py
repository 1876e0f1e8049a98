"""Names of the fields of entries, in whichever stream, and those that are read without the rest of their entry."""

from __future__ import annotations

from collections.abc import Mapping

PAYLOAD = b"payload"
"""A message, or in the stream of dead letters what the job's entry had."""
KIND = b"kind"
"""Of a job or an answer: which message the payload is."""
LETTER = b"letter"
"""The `DeadLetter`, beside the payload of the job."""
TOKENS = b"tokens"
"""Of a job: the most that its completions may have together."""
BATCH = b"batch"
"""Of a job: the id of its batch."""


def named_batch(fields: Mapping[bytes, bytes]) -> str:
    """The batch that a job's entry names, whatever else is wrong with it; empty where it names none."""
    return fields.get(BATCH, b"").decode("utf-8", "backslashreplace")
