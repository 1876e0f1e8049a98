"""The reference of what a trainer imports, by its docstrings: which name is on which page. mkdocstrings reads them."""

from __future__ import annotations

from typing import NamedTuple

import rollstream

_OPTIONS = "rollstream.producer.batches.submit_options"


class Page(NamedTuple):
    """A page of the reference."""

    title: str
    about: str
    names: tuple[str, ...]
    """Public names of `rollstream`, or paths of classes that stand for options of their calls."""


PAGES = {
    "client": Page(
        "Clients",
        "`Client` is the same without `await`: each method of `AsyncClient` blocks there, in any thread.",
        ("AsyncClient", "Client", f"{_OPTIONS}.SubmitOptions", f"{_OPTIONS}.GenerateOptions", "PromptLengths"),
    ),
    "handles": Page(
        "Handles",
        "What `submit`, `submit_scores` and `attach` return. Handles of a `Client` have the same methods, blocking.",
        ("BatchHandle", "ScoreHandle", "BlockingBatchHandle", "BlockingScoreHandle", "Batch", "Answer", "Turn"),
    ),
    "generation": Page(
        "Generation config", "How a batch is sampled.", ("GenerationConfig", "Guided", "Repetition")
    ),
    "results": Page(
        "Results",
        "[What comes back](../results.md) explains shapes and masks; here is each field.",
        ("RolloutBatch", "GroupResult", "Completion", "GroupError", "ErrorCode", "SamplingSupport", "Selection",
         "ImageRef", "ImageSpan", "RoutedExperts"),
    ),
    "scores": Page("Scores", "See [scores](../scores.md).", ("ScoreBatch", "GroupScores")),
    "policies": Page(
        "Versions and weights",
        "See [trainers](../trainers.md).",
        (
            "PolicyVersion", "Activate", "Tolerance", "Probe", "make_probe", "probe_of", "probe_of_folder",
            "RoundOptions", "StoreOptions",
        ),
    ),
    "trainers": Page(
        "Drop-ins for trainers",
        "See [trainers](../trainers.md).",
        (
            "StalenessGate", "RolloutFunction", "PublishPolicy", "TeacherClient", "VerlRollout", "VerlRollouts",
            "VerlReference", "RollStrategy",
        ),
    ),
    "runs": Page(
        "Runs",
        "See [a trainer that comes back](../runs.md). `BlockingRun` is the same without `await`.",
        ("Run", "BlockingRun", "OutstandingBatch", "RunCounts"),
    ),
    "sessions": Page(
        "Sessions",
        "The turns of conversations. `BlockingSession` is the same without `await`.",
        ("Session", "BlockingSession", "SessionTurn", "Trajectory", "TrajectoryTurn", "stack", "TrajectoryBatch"),
    ),
    "errors": Page(
        "Errors",
        "Every error of Rollstream is a `RollstreamError`, can be pickled, and has what an operator needs as fields.",
        ("RollstreamError", *sorted(name for name in rollstream.__all__ if name.endswith("Error") and name not in {
            "RollstreamError", "GroupError"})),
    ),
}  # fmt: skip


def api_pages() -> dict[str, str]:
    """The pages by their paths."""
    return {f"api/{name}.md": _page(page) for name, page in PAGES.items()}


def _page(page: Page) -> str:
    parts = [f"# {page.title}\n\n{page.about}\n"]
    parts += [f"::: {name if '.' in name else f'rollstream.{name}'}\n" for name in page.names]
    return "\n".join(parts)
