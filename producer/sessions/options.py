"""The keyword arguments of a session's `submit`, beside its own."""

from collections.abc import Sequence
from typing import Any, TypedDict, cast  # no postponed annotations in this module: `help` shows these types

from rollstream.schemas.wire.turns import SESSION_WAIT_S

from ..batches.submit_options import SUBMIT_DEFAULTS, SubmitOptions
from ..images.given import OneImage


class TurnOptions(TypedDict, total=False):
    """`images`: those whose placeholders are among `new_ids`. The others are those of `AsyncClient.submit`."""

    adapter: str | None
    queue_deadline_s: float | None
    run_deadline_s: float | None
    min_policy_version: int | None
    max_staleness: int | None
    samples_per_job: int | None
    keep_partials: float | None
    session_wait_s: float
    images: Sequence[OneImage] | None


TURN_DEFAULTS: TurnOptions = {
    "adapter": None,
    "queue_deadline_s": None,
    "run_deadline_s": None,
    "min_policy_version": None,
    "max_staleness": None,
    "samples_per_job": None,
    "keep_partials": None,
    "session_wait_s": SESSION_WAIT_S,
    "images": None,
}


def client_part(options: TurnOptions, **more: Any) -> SubmitOptions:
    """What a client's `submit` would be given."""
    images = None if options.get("images") is None else [options["images"]]
    return cast(SubmitOptions, {**SUBMIT_DEFAULTS, **TURN_DEFAULTS, **options, "images": images, **more})
