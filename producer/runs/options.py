"""The keyword arguments of a run's `submit` and `submit_scores`."""

from typing import Any, TypedDict, cast  # no postponed annotations in this module: `help` shows these types

from ..batches.submit_options import SUBMIT_DEFAULTS, SubmitOptions
from ..scores.options import SCORE_DEFAULTS, ScoreOptions


class NotedOptions(TypedDict, total=False):
    """`note`: small data of your own that `run.outstanding` gives back after a crash, such as {"step": 17}: how to make
    the prompts again. None, booleans, numbers, texts, bytes, lists and dicts of them, 4 KiB at most.

    `admitted`: the policy version that `gate.admit` returned; it is also the batch's `min_policy_version`, unless that
    is given.
    """

    note: Any
    admitted: int | None


class RunSubmitOptions(NotedOptions, SubmitOptions, total=False):
    """Those of a client's `submit` are the others. Without a `batch_id` the batch is named after the run."""


RUN_SUBMIT_DEFAULTS: RunSubmitOptions = {**SUBMIT_DEFAULTS, "note": None, "admitted": None}


def client_part(options: RunSubmitOptions) -> SubmitOptions:
    """The part that a client's `submit` takes."""
    return cast(SubmitOptions, {name: value for name, value in options.items() if name in SUBMIT_DEFAULTS})


class RunScoreOptions(ScoreOptions, total=False):
    """`note`: see `Run.submit`."""

    note: Any


RUN_SCORE_DEFAULTS: RunScoreOptions = {**SCORE_DEFAULTS, "note": None}


def score_part(options: RunScoreOptions) -> ScoreOptions:
    """The part that a client's `submit_scores` takes."""
    return cast(ScoreOptions, {name: value for name, value in options.items() if name in SCORE_DEFAULTS})
