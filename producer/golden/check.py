"""Sample golden jobs again by a live fleet, and compare. What is scored besides is up to a worker with `--golden`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollstream.schemas import Golden, GroupError, GroupResult, Keys
from rollstream.schemas.golden.comparison import Comparison, Now, compare
from rollstream.schemas.golden.origin import other_model, version_of

from ..batches.read_answers import Answer
from ..errors import GoldenRefusedError
from ..redis_io.connection import Connection
from .origin import Origin, origin_of, reports_of
from .sampling import completions_of, sample, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How a fleet did."""

    comparison: Comparison
    origin: Origin | None
    """None if no case got completions."""


async def check(connection: Connection, keys: Keys, golden: Golden, timeout: float | None) -> Checked:
    """Raises `GoldenRefusedError` where the live workers cannot give the same: they have another model, or serve
    another version, or are not alike; `ResultTimeoutError`, `RedisUnavailableError`.
    """
    for name, report in (await reports_of(connection, keys)).items():
        if problem := other_model(golden, model=report.model, vocab_size=report.vocab_size):
            raise GoldenRefusedError(f"{name}: {problem}")
    wanted = [
        ([case.prompt for case in batch.cases(number)], batch.config) for number, batch in enumerate(golden.batches)
    ]
    answers = [answer for batch in await sample(connection, keys, wanted, timeout) for answer in batch]
    results = [answer for answer in answers if isinstance(answer, GroupResult)]
    origin = origin_of(results, await reports_of(connection, keys)) if results else None
    if origin is not None:
        _check_version(golden, origin)
    dtype = golden.dtype if origin is None else origin.dtype
    return Checked(comparison=compare(golden, _given(answers), dtype), origin=origin)


def _check_version(golden: Golden, origin: Origin) -> None:
    """Raises `GoldenRefusedError` unless the version that answered is the recorded one, under whatever number."""
    if golden.policy_sha256 != origin.policy_sha256:
        serves = f"version {origin.policy_version}" + f" ({origin.policy_sha256[:12]})" * bool(origin.policy_sha256)
        problem = f"the file was recorded under {version_of(golden)}, the workers serve {serves}"
        raise GoldenRefusedError(f"{problem}: other weights give other tokens; record again")


def _given(answers: Sequence[Answer]) -> list[list[Now] | str]:
    return [told(one) if isinstance(one, GroupError) else completions_of(one) for one in answers]
