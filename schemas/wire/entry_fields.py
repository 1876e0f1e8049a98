"""Names of the fields of stream entries, and the batch of an entry that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

PAYLOAD = b"payload"
"""A message; in the stream of dead letters the payload of the job's entry."""
KIND = b"kind"
"""In a job's or an answer's entry: which message the payload is."""
LETTER = b"letter"
"""The `DeadLetter`, beside the payload of the job."""
TOKENS = b"tokens"
"""In a job's entry: the most tokens that its completions may have together."""
SHARE = b"share"
"""In the entry of a job that has some samples of its groups: the first of them, how many, and of how many."""
BATCH = b"batch"
"""In a job's entry: the id of its batch."""


def named_batch(fields: Mapping[bytes, bytes]) -> str:
    """The batch that a job's entry names, even if the rest of it cannot be read; empty if it names none."""
    return fields.get(BATCH, b"").decode("utf-8", "backslashreplace")
