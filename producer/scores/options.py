"""The keyword arguments of `submit_scores` and `score`: each declared, explained and given its default once."""

from typing import cast  # no postponed annotations in this module: `help` shows these types

from ..batches.submit_options import JOB_DEFAULTS, JobOptions
from .rows import First


class ScoreOptions(JobOptions, total=False):
    """`first`: the column of `input_ids` from which on tokens are scored, or one column for each row; column j of the
    scores is then column `first + j` of `input_ids`. None: every token but each row's first, and column j is column
    `1 + j`. Rollouts are scored from their responses' first column on: leave it out.

    `top_logprobs`: how many of the likeliest ids come with each token, at most 128.

    `rows_per_job`: rows that one worker takes at a time; long rows make smaller jobs.
    """

    first: First
    top_logprobs: int
    rows_per_job: int


class ScoringOptions(ScoreOptions, total=False):
    """`timeout`: seconds for submitting and waiting together, even if Redis does not answer. `progress`: see
    `ScoreHandle.result`. The others are those of `submit_scores`.
    """

    timeout: float | None
    progress: bool


SCORE_DEFAULTS: ScoreOptions = {**JOB_DEFAULTS, "first": None, "top_logprobs": 0, "rows_per_job": 32}

SCORING_DEFAULTS: ScoringOptions = {**SCORE_DEFAULTS, "timeout": None, "progress": False}


def score_part(options: ScoringOptions) -> ScoreOptions:
    """The part of `options` that `submit_scores` takes."""
    return cast(ScoreOptions, {name: value for name, value in options.items() if name in SCORE_DEFAULTS})
