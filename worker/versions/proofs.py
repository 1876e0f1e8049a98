"""Which versions may sample here: each was proven by this worker, or was published without a probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import structlog

from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.probe import Probe

from ..engine import EngineInfo, Prove, Score
from ..errors import UnprovenError
from .proof import Proof, check_fits, proof_of

log = structlog.get_logger()


class Proofs:
    """Remembers proofs by version. It is asked before anything leaves the worker, so that nothing unproven ever does.

    A load adds its version before the engine may sample with it: from within the proof, or at its beginning if there
    is no probe. A failed proof adds nothing.
    """

    def __init__(self) -> None:
        self._may_sample: dict[int, Proof | None] = {}

    def allow(self, version: int, proof: Proof | None = None) -> None:
        """The version may sample: it reproduced its probe, or has none."""
        self._may_sample[version] = proof

    def allows(self, version: int) -> bool:
        """Whether the version may sample."""
        return version in self._may_sample

    def of(self, version: int) -> Proof | None:
        """The version's proof; None if it needs none, or was never here."""
        return self._may_sample.get(version)

    def check(self, spans: Iterable[Sequence[VersionSpan]]) -> None:
        """Raises `UnprovenError` if one of the versions that sampled these completions may not."""
        for version, _ in chain.from_iterable(spans):
            if version not in self._may_sample:
                raise UnprovenError(version)

    @contextmanager
    def loading(self, version: int, probe: Probe | None, info: EngineInfo) -> Iterator[Prove | None]:
        """Around a load of the version: what the engine must ask of its weights before it samples; None for nothing.

        A load that fails takes back what it allowed: one engine may have passed, but they all have their old weights.
        Where there is no probe, those that could load the version serve it. Raises `ProofFailedError` for a probe that
        the engine cannot score.
        """
        before = {version: self._may_sample[version]} if version in self._may_sample else {}
        if probe is None:
            self.allow(version)
            yield None
            return
        check_fits(probe, version, info)

        def take_back() -> None:
            self._may_sample.pop(version, None)
            self._may_sample |= before  # the same number with other content, which was served before

        async def prove(score: Score) -> None:
            try:
                proof = await proof_of(probe, version, info, score)
            except BaseException:
                take_back()
                raise
            self.allow(version, proof)
            log.info("policy version proven", version=version, proof=str(proof))

        try:
            yield prove
        except Exception:  # not where the caller is cancelled: an engine carries the load out all the same
            take_back()
            raise
