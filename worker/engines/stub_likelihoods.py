"""What the stub engine draws, and how likely it says that tokens are: made up, and always the same. Pure."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_LEAST, _MOST = -9.0, -0.1
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF, _LOW = np.uint64(32), np.uint64(11)
_STEP = (_MOST - _LEAST) / 2**53


def likelihoods(row: list[int], first: int, adapter: str, version: int, more: int = 0) -> NDArray[np.float32]:
    """(L, 1 + more) with L = ids of the row - `first`: the log-prob of each token, then `more` others.

    A token's follows from itself, what comes before it, the adapter and the version.
    """
    ids = np.array(row, np.uint64)
    ids += _salt(adapter, version)
    ids *= _factors(len(row))
    texts = ids.cumsum()[first:]
    each = texts[:, None] + np.arange(1 + more, dtype=np.uint64) * _ODD if more else texts[:, None]
    each = (each ^ (each >> _HALF)) * _MIX
    found: NDArray[np.float32] = (_LEAST + _STEP * ((each ^ (each >> _HALF)) >> _LOW)).astype(np.float32)
    return found


def generator(prompt: list[int], adapter: str, seed: int, version: int) -> np.random.Generator:
    """Numbers to draw the tokens of a completion by; they follow from all of these."""
    text = f"{prompt}|{adapter}|{seed}" + (f"|{version}" if version else "")
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


@lru_cache(maxsize=64)
def _salt(adapter: str, version: int) -> np.uint64:
    digest = hashlib.blake2b(f"{adapter}|{version}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


@lru_cache(maxsize=64)
def _factors(length: int) -> NDArray[np.uint64]:
    """One odd number for each place of a text, so that the order of its tokens matters."""
    return np.arange(1, 2 * length, 2, dtype=np.uint64) * _ODD
