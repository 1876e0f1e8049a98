"""What the stub engine samples by its rule, written apart from it, so that each token of a result can be audited."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.fields import VersionSpan
from rollstream.worker.jobs.seeds import prompt_seed, rest_seed


def drawn(prompt: Sequence[int], seed: int, length: int, *, vocab_size: int, version: int = 0) -> NDArray[np.int32]:
    """The tokens of one request without an adapter."""
    text = f"{list(prompt)}||{seed}" + (f"|{version}" if version else "")
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return generator.integers(0, vocab_size, length).astype(np.int32)


def breaks_of(
    prompt: Sequence[int],
    seed: int,
    tokens: Sequence[int],
    *,
    vocab_size: int,
    spans: Sequence[VersionSpan] | None = None,
) -> list[int] | None:
    """Where a sample of this seed was gone on from, each a position > 0; None if its tokens follow from no such places.

    The first piece is drawn after the prompt with the sample's own seed, each other one after all tokens before it with
    the seed of the rest. `spans`: which version sampled which tokens; None: version 0 all of them.
    """
    wanted = np.asarray(tokens, np.int32)
    by_version = np.repeat(*np.array(spans or [(0, len(tokens))], np.int64).T)

    def rest(begins: int) -> NDArray[np.int32]:
        """What one request draws from there to the end, if each version samples its tokens."""
        so_far, own = (*prompt, *tokens[:begins]), rest_seed(seed, begins) if begins else seed
        versions, told = by_version[begins:], np.zeros(len(tokens) - begins, np.int32)
        for version in set(versions.tolist()):
            draw = drawn(so_far, own, len(told), vocab_size=vocab_size, version=version)
            told[versions == version] = draw[versions == version]
        return told

    begins, places, told = 0, list[int](), rest(0)
    while len(differs := np.flatnonzero(told != wanted[begins:])):
        here = begins + int(differs[0])
        tries = {place: rest(place) for place in range(here, max(begins, here - 3), -1)}  # two may be alike by chance
        if not tries:
            return None
        begins = max(tries, key=lambda place: place + _same(tries[place], wanted[place:]))
        told = tries[begins]
        if not _same(told, wanted[begins:]):
            return None
        places.append(begins)
    return places


def _same(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many of the first tokens are the same."""
    differs = np.flatnonzero(one != other)
    return int(differs[0]) if len(differs) else len(one)


def sample_seed(batch_seed: int, row: int, sample: int) -> int:
    """The seed of a sample of a batch."""
    return prompt_seed(batch_seed, row) + sample
