"""Groups whose samples are shared out to several jobs, each with a run of them. Pure rules for both sides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ..generation.generation_config import GenerationConfig

_SHARE = re.compile(rb"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which samples of each of its groups a job has."""

    first: int
    samples: int
    of: int
    """How many samples a group has in all."""

    def field(self) -> bytes:
        """The field of a job's entry, as `submit.lua` reads it too."""
        return b"%d:%d:%d" % (self.first, self.samples, self.of)

    @classmethod
    def read(cls, field: bytes) -> Self | None:
        """Read the field of an entry; None if it makes no sense."""
        found = _SHARE.fullmatch(field)
        if found is None:
            return None
        share = cls(first=int(found[1]), samples=int(found[2]), of=int(found[3]))
        return share if share.samples and share.first + share.samples <= share.of else None

    @property
    def numbers(self) -> range:
        """The numbers of its samples."""
        return range(self.first, self.first + self.samples)


def shares_of(config: GenerationConfig, samples_per_job: int | None) -> int:
    """How many jobs sample a group together; the last of them may have fewer samples than the others."""
    return 1 if samples_per_job is None else -(-config.num_return_sequences // samples_per_job)


def why_unsplit(config: GenerationConfig) -> str | None:
    """Why the samples of a group cannot be shared out; None if they can."""
    if config.num_beams > 1:
        return "beams are searched together: leave samples_per_job out, or num_beams"
    if config.first_k is not None:
        return "the first_k of a group are known where all of it runs: leave samples_per_job out, or first_k"
    return None


def check_share(config: GenerationConfig, first_sample: int, samples: int | None) -> None:
    """Raises `ValueError` for a share that is none of `num_return_sequences` samples."""
    n = config.num_return_sequences
    if samples is None:
        if first_sample:
            raise ValueError("first_sample says nothing without samples")
    elif first_sample + samples > n:
        raise ValueError(f"samples {first_sample} to {first_sample + samples - 1} of {n} are out of bounds")
    elif problem := why_unsplit(config):
        raise ValueError(problem)
