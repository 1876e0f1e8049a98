"""The fields of the two hashes that hold what running completions have so far."""

from __future__ import annotations

ALL_PARTS = "*"
"""Field of a partition's hash of bytes: the sum over all batches, whose ids are the other fields. None is named `*`."""
FINISHED = "finished"
"""What `tokens_field` holds once the sample is finished; before, its number of tokens."""


def part_field(group: int, sample: int) -> str:
    """The `Part` of a sample."""
    return f"{group}:{sample}"


def tokens_field(group: int, sample: int) -> str:
    """How far the sample is, so that scripts need not read the part: `FINISHED` or a number of tokens."""
    return f"{group}:{sample}:tokens"
