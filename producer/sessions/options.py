"""The keyword arguments of a session's `submit`, beside its own."""

from typing import Any, TypedDict, cast  # no postponed annotations in this module: `help` shows these types

from rollstream.schemas.wire.turns import SESSION_WAIT_S

from ..batches.submit_options import SUBMIT_DEFAULTS, SubmitOptions


class TurnOptions(TypedDict, total=False):
    """The others are those of `AsyncClient.submit`."""

    adapter: str | None
    queue_deadline_s: float | None
    run_deadline_s: float | None
    min_policy_version: int | None
    max_staleness: int | None
    samples_per_job: int | None
    keep_partials: float | None
    session_wait_s: float


TURN_DEFAULTS: TurnOptions = {
    "adapter": None,
    "queue_deadline_s": None,
    "run_deadline_s": None,
    "min_policy_version": None,
    "max_staleness": None,
    "samples_per_job": None,
    "keep_partials": None,
    "session_wait_s": SESSION_WAIT_S,
}


def client_part(options: TurnOptions, **more: Any) -> SubmitOptions:
    """What a client's `submit` would be given."""
    return cast(SubmitOptions, {**SUBMIT_DEFAULTS, **TURN_DEFAULTS, **options, **more})
