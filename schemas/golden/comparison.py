"""Whether a worker gives the golden completions again, as closely as two engines can agree. Pure.

Two engines round differently, so log-probs differ a little, and where two tokens are about as likely another one may be
sampled. What follows such a token is another text, so a completion is compared up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..generation.generation_config import GenerationConfig
from ..wire.proofs.golden import Case, Golden, Recorded
from ..wire.proofs.probe import TOLERANCES, Tolerance, coarsest

DIVERGENCES = {"float32": 0.02, "float16": 0.05, "bfloat16": 0.15}
"""By dtype: at most so many seeded completions may part from theirs for each token that was compared. Rounding alone
makes a few of them part; another generator of random numbers nearly all of them at once."""
FEWEST_FOR_MEAN = 8
"""The mean of fewer differences says nothing that the largest does not."""


class Outcome(StrEnum):
    """How a completion compares."""

    EQUAL = "equal"
    """The same tokens, with log-probs within the tolerance."""
    DIVERGED = "diverged"
    """The same up to a token where rounding may decide."""
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """A completion as it is sampled now."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None
    scored: NDArray[np.float32] | None = None
    """The model's own log-probs of the recorded tokens, from the first on; None if they were not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one completion compares."""

    case: int
    batch: int
    row: int
    sample: int
    tokens: int
    """Recorded ones."""
    agreed: int
    """Tokens before the first that differs."""
    outcome: Outcome
    differences: NDArray[np.float64]
    """Absolute differences of the log-probs that were compared, in nats."""
    problem: str = ""
    """Where and by how much it is off; empty if it is not."""

    @property
    def mean(self) -> float:
        """Mean difference in nats; 0 if nothing was compared."""
        return float(self.differences.mean()) if self.differences.size else 0.0

    @property
    def largest(self) -> float:
        """The largest difference in nats."""
        return float(self.differences.max(initial=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How all completions of a golden file compare."""

    findings: tuple[Finding, ...]
    tolerance: Tolerance
    problem: str
    """The first thing that is off, with its numbers; empty if the file was reproduced."""

    @property
    def differences(self) -> NDArray[np.float64]:
        """Those of all completions."""
        return np.concatenate([finding.differences for finding in self.findings])

    @property
    def diverged(self) -> int:
        """How many completions parted from theirs."""
        return sum(finding.outcome is Outcome.DIVERGED for finding in self.findings)


def tolerance_of(golden: Golden, dtype: str) -> Tolerance:
    """The file's own, else that of the coarser of both dtypes: the recorded one and `dtype`, the present one."""
    if golden.tolerance is not None:
        return golden.tolerance
    return TOLERANCES[coarsest((golden.dtype, dtype))]


def compare(golden: Golden, now: Sequence[Sequence[Now] | str], dtype: str) -> Comparison:
    """Compare each case with its completions of now, or with the reason why it has none. `dtype`: that of now."""
    tolerance = tolerance_of(golden, dtype)
    findings = tuple(
        finding
        for number, (case, given) in enumerate(zip(golden.cases, now, strict=True))
        for finding in _of_case(number, case, given, tolerance)
    )
    problem = next((finding.problem for finding in findings if finding.problem), "")
    problem = problem or _too_many_part(golden, findings, dtype) or _mean_off(findings, tolerance)
    return Comparison(findings=findings, tolerance=tolerance, problem=problem)


def _of_case(number: int, case: Case, given: Sequence[Now] | str, tolerance: Tolerance) -> list[Finding]:
    if isinstance(given, str):
        return [_off(number, case, 0, f"{_where(number, case)}: {given}")]
    if len(given) != len(case.completions):
        return [_off(number, case, 0, f"{_where(number, case)}: {len(given)} completions of {len(case.completions)}")]
    return [_of_completion(number, case, sample, now, tolerance) for sample, now in enumerate(given)]


def _of_completion(number: int, case: Case, sample: int, now: Now, tolerance: Tolerance) -> Finding:
    known, where = case.completions[sample], f"{_where(number, case)}, sample {sample}"
    if now.logprobs is None or len(now.logprobs) != len(now.token_ids):
        return _off(number, case, sample, f"{where}: it came without log-probs")
    agreed = _agreed(known.token_ids, now.token_ids)
    scored = now.scored if _is_comparable(case.config) else None
    sampled_apart = _apart(known.logprobs, now.logprobs[:agreed])
    scored_apart = np.zeros(0) if scored is None else _apart(known.logprobs, scored)
    loose = _loosened(tolerance, case.config)
    problem = (
        _apart_problem(known, scored, scored_apart, tolerance, "scored")
        or _apart_problem(known, now.logprobs, sampled_apart, loose, "sampled")
        or _part_problem(case.config, known, now, agreed, tolerance)
    )
    parted = agreed < max(len(known.token_ids), len(now.token_ids))
    return Finding(
        case=number,
        batch=case.batch,
        row=case.row,
        sample=sample,
        tokens=len(known.token_ids),
        agreed=agreed,
        outcome=Outcome.OFF if problem else Outcome.DIVERGED if parted else Outcome.EQUAL,
        differences=np.concatenate([scored_apart, sampled_apart * (tolerance.mean / loose.mean)]),
        problem=f"{where}: {problem}" if problem else "",
    )


def _agreed(known: NDArray[np.int32], now: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    common = min(len(known), len(now))
    different = np.flatnonzero(known[:common] != now[:common])
    return int(different[0]) if different.size else common


def _apart(known: NDArray[np.float32], now: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute differences; infinite where what is given now is no number."""
    apart = np.abs(known[: len(now)].astype(np.float64) - now.astype(np.float64)[: len(known)])
    return np.where(np.isfinite(apart), apart, np.inf)


def _is_comparable(config: GenerationConfig) -> bool:
    """Whether the recorded log-probs are the model's own, as scored ones are."""
    return config.logprobs == "raw" or config.processed_equals_raw


def _loosened(tolerance: Tolerance, config: GenerationConfig) -> Tolerance:
    """Processed log-probs at a temperature below 1 are further apart by as much."""
    if config.logprobs == "raw" or not 0 < config.temperature < 1:
        return tolerance
    most = 99.0  # nats, the bound of a tolerance
    return Tolerance(
        mean=min(most, tolerance.mean / config.temperature), largest=min(most, tolerance.largest / config.temperature)
    )


def _apart_problem(
    known: Recorded, now: NDArray[np.float32] | None, apart: NDArray[np.float64], tolerance: Tolerance, how: str
) -> str:
    if now is None or not apart.size:
        return ""
    mean, worst = float(apart.mean()), int(apart.argmax())
    if apart[worst] > tolerance.largest:
        told = f"{known.logprobs[worst]:.4f} in the file, {now[worst]:.4f} {how} now"
        return (
            f"token {worst} (id {known.token_ids[worst]}) has log-prob {told}: {_more(apart[worst], tolerance.largest)}"
        )
    if len(apart) >= FEWEST_FOR_MEAN and mean > tolerance.mean:
        return f"{how} log-probs of {len(apart)} tokens are off on average: {_more(mean, tolerance.mean)}"
    return ""


def _part_problem(config: GenerationConfig, known: Recorded, now: Now, at: int, tolerance: Tolerance) -> str:
    """What is wrong with the place where the two part: token `at`. Seeded ones are judged all together."""
    if at == len(known.token_ids) == len(now.token_ids):
        return ""
    if at == len(known.token_ids) or at == len(now.token_ids):
        return f"it has {len(now.token_ids)} tokens, {len(known.token_ids)} in the file, of which {at} agree"
    if config.temperature > 0 or now.logprobs is None:
        return ""
    has_score = _is_comparable(config) and now.scored is not None and at < len(now.scored)
    before = now.scored[at] if has_score and now.scored is not None else known.logprobs[at]
    apart = float(_apart(np.array([before]), now.logprobs[at : at + 1])[0])
    if apart <= tolerance.largest:
        return ""
    told = f"token {at} is id {now.token_ids[at]}, {known.token_ids[at]} in the file"
    return f"{told}, and they are not about as likely: {_more(apart, tolerance.largest)}"


def _too_many_part(golden: Golden, findings: Sequence[Finding], dtype: str) -> str:
    """Whether seeded completions part from theirs more often than rounding explains."""
    seeded = [one for one in findings if golden.cases[one.case].config.temperature > 0]
    parted = sum(one.agreed < one.tokens for one in seeded)
    compared = sum(one.agreed for one in seeded) + parted
    most = DIVERGENCES[coarsest((golden.dtype, dtype))]
    if parted <= most * compared:
        return ""
    first = min((one for one in seeded if one.agreed < one.tokens), key=lambda one: one.agreed)
    told = f"{parted} of {len(seeded)} seeded completions differ within {compared} tokens, at most {most:g} a token may"
    where = _where(first.case, golden.cases[first.case])
    return f"{told}; the first: {where}, sample {first.sample}, token {first.agreed}: seeds sample other tokens here"


def _mean_off(findings: Sequence[Finding], tolerance: Tolerance) -> str:
    apart = np.concatenate([finding.differences for finding in findings])
    if not apart.size or apart.mean() <= tolerance.mean:
        return ""
    return f"log-probs of all {len(apart)} tokens are off on average: {_more(float(apart.mean()), tolerance.mean)}"


def _off(number: int, case: Case, sample: int, problem: str) -> Finding:
    return Finding(
        case=number,
        batch=case.batch,
        row=case.row,
        sample=sample,
        tokens=len(case.completions[sample].token_ids),
        agreed=0,
        outcome=Outcome.OFF,
        differences=np.zeros(0),
        problem=problem,
    )


def _more(apart: float, allowed: float) -> str:
    return f"{apart:.4g} nats apart, {allowed:g} allowed"


def _where(number: int, case: Case) -> str:
    return f"case {number} (batch {case.batch}, row {case.row})"
