"""What the demo shows of a batch: a table a prompt, and the shape of every tensor in each layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from producer.rollout_batch import RolloutBatch
from schemas import GroupError, GroupResult

Answers = Sequence[GroupResult | GroupError]


def report(console: Console, title: str, rollouts: RolloutBatch, answers: Answers, seconds: float) -> None:
    """Print both tables of one batch."""
    tokens = int(rollouts.response_lengths.sum())
    flavour = f", log-probs {rollouts.logprobs_flavour}" if rollouts.logprobs_flavour else ""
    console.rule(f"[bold]{title}")
    console.print(f"{len(rollouts)} completions, {tokens} tokens in {seconds:.2f} s{flavour}")
    console.print(_groups(answers))
    console.print(_shapes(rollouts))


def summary(title: str, rollouts: RolloutBatch, answers: Answers, seconds: float) -> dict[str, Any]:
    """The same for a machine: JSON types only."""
    return {
        "title": title,
        "seconds": round(seconds, 3),
        "errors": len(rollouts.errors),
        "groups": [dict(zip(COLUMNS, _row(answer), strict=True)) for answer in answers],
        "shapes": {
            layout: {name: list(tensor.shape) for name, tensor in tensors.items()}
            for layout, tensors in _layouts(rollouts).items()
        },
    }


COLUMNS = (
    "group", "prompt tokens", "response lengths", "finish reasons", "mean log-prob", "best score", "policy version",
    "queued s", "generated s",
)  # fmt: skip


def _groups(answers: Answers) -> Table:
    table = Table(*COLUMNS)
    for answer in answers:
        table.add_row(*_row(answer))
    return table


def _row(answer: GroupResult | GroupError) -> list[str]:
    if isinstance(answer, GroupError):
        return [str(answer.group), "", "", f"error: {answer.message}", "", "", "", "", ""]
    reasons = Counter(answer.finish_reasons)
    versions = sorted({version for spans in answer.version_spans for version, _ in spans})
    return [
        str(answer.group),
        str(answer.prompt.shape[0]),
        " ".join(str(length) for length in answer.lengths.numpy()),
        ", ".join(f"{count} {reason}" for reason, count in reasons.items()),
        ""
        if answer.logprobs is None
        else f"{answer.logprobs.numpy().sum() / max(1, answer.lengths.numpy().sum()):.3f}",
        "" if answer.scores is None else f"{answer.scores.numpy().max():.3f}",
        " ".join(str(version) for version in versions),
        f"{answer.queued_s:.2f}",
        f"{answer.generate_s:.2f}",
    ]


def _shapes(rollouts: RolloutBatch) -> Table:
    table = Table("layout", "tensor", "shape", "dtype")
    for layout, tensors in _layouts(rollouts).items():
        for number, (name, tensor) in enumerate(tensors.items()):
            table.add_row("" if number else layout, name, str(tuple(tensor.shape)), str(tensor.dtype))
        table.add_section()
    return table


def _layouts(rollouts: RolloutBatch) -> dict[str, dict[str, Any]]:
    own = {field.name: getattr(rollouts, field.name) for field in fields(rollouts)}
    return {
        "RolloutBatch": {name: value for name, value in own.items() if hasattr(value, "dtype")},
        ".roll()": dict(rollouts.roll()),
        ".verl()": dict(rollouts.verl()),
    }
