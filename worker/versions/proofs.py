"""Which versions may sample here: each was proven by this worker, or was published without a probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import structlog

from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.proofs.probe import Probe

from ..engine import EngineInfo, Prove, Score
from ..errors import UnprovenError
from .proof import Proof, check_fits, proof_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class _Allowed:
    """By one load of the version."""

    proof: Proof | None


class Proofs:
    """Remembers proofs by version. It is asked before anything leaves the worker, so that nothing unproven ever does.

    A load adds its version before the engine may sample with it: from within the proof, or at its beginning if there
    is no probe. A failed proof adds nothing.
    """

    def __init__(self) -> None:
        self._may_sample: dict[int, _Allowed] = {}

    def allow(self, version: int, proof: Proof | None = None) -> None:
        """The version may sample: these weights reproduced its probe, or it has none."""
        self._may_sample[version] = _Allowed(proof)

    def allows(self, version: int) -> bool:
        """Whether the version may sample."""
        return version in self._may_sample

    def of(self, version: int) -> Proof | None:
        """The version's proof; None if it needs none, or was never here."""
        return self._may_sample[version].proof if version in self._may_sample else None

    def reached(self, version: int, experts: tuple[int, int] | None) -> None:
        """Add to its proof, if it has one, how many experts the probe reached; known after the load."""
        found = self._may_sample[version]
        if found.proof is not None:
            self._may_sample[version] = replace(found, proof=replace(found.proof, experts=experts))

    def check(self, spans: Iterable[Sequence[VersionSpan]]) -> None:
        """Raises `UnprovenError` if one of the versions that sampled these completions may not."""
        for version, _ in chain.from_iterable(spans):
            if version not in self._may_sample:
                raise UnprovenError(version)

    @contextmanager
    def loading(self, version: int, probe: Probe | None, info: EngineInfo) -> Iterator[Prove | None]:
        """Around a load of the version: what the engine must ask of its weights before it samples; None for nothing.

        A load that fails takes back what it allowed: one engine may have passed, but they all have their old weights.
        Where there is no probe, those that could load the version serve it.

        The number may be that of other weights, of a versions stream that has started again, or of another probe. Their
        proof is none of these, but what they sampled may leave until these serve: nothing samples meanwhile.
        Raises `ProofFailedError` for a probe that the engine cannot score, and `UnprovenError` after a load in which it
        was not asked, or failed in secret.
        """
        before = self._may_sample.get(version)
        if probe is None:
            self.allow(version)
            yield None
            return
        check_fits(probe, version, info)
        try:
            yield partial(self._prove, version, probe, info, before)
        except Exception:  # not where the caller is cancelled: an engine carries the load out all the same
            self._take_back(version, before)
            raise
        if self._may_sample.get(version) is before:
            self._take_back(version, None)
            raise UnprovenError(version)

    async def _prove(
        self,
        version: int,
        probe: Probe,
        info: EngineInfo,
        before: _Allowed | None,
        score: Score,
    ) -> None:
        try:
            proof = await proof_of(probe, version, info, score)
        except BaseException:
            self._take_back(version, before)
            raise
        self.allow(version, proof)
        log.info("policy version proven", version=version, proof=str(proof))

    def _take_back(self, version: int, before: _Allowed | None) -> None:
        if before is None:
            self._may_sample.pop(version, None)
        else:
            self._may_sample[version] = before
