"""Which version sampled which token, where vLLM tells it (0.32 and later) and where a test must find it out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rollstream.worker.engines.vllm_versions import installed
from rollstream.worker.requests import Completion

_VERSION = next(iter(installed().values()), "0.0")
RELEASE = tuple(int(part) for part in _VERSION.split(".")[:2])
"""The series of the vLLM that is installed here, such as (0, 32)."""
TELLS_VERSIONS = RELEASE >= (0, 32)

needs_told_versions = pytest.mark.skipif(
    not TELLS_VERSIONS, reason=f"vLLM {_VERSION} tells no versions: spans of what a swap crossed are estimates"
)


Floats = NDArray[np.float32]


def sampled_by_old(found: Completion, old_version: int, by_old: Floats, by_new: Floats) -> int:
    """How many tokens the old weights sampled: as exact spans say, else up to where log-probs are the new weights'."""
    assert found.spans_exact or not TELLS_VERSIONS
    if found.spans_exact:
        return sum(length for version, length in found.version_spans if version == old_version)
    assert found.logprobs is not None
    is_old, is_new = (np.abs(found.logprobs - expected) < 1e-4 for expected in (by_old, by_new))
    seams = [at for at in range(len(found.token_ids) + 1) if is_old[:at].all() and is_new[at:].all()]
    assert seams, "some tokens are of neither weights, or the weights changed back"
    return seams[0]
