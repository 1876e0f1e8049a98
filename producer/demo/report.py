"""What the demo prints: a table for each batch, a line for each prompt, and the shapes of all tensors by layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rollstream.schemas import GroupError, GroupResult

from ..batches.read_answers import Answer
from ..rollouts.rollout_batch import RolloutBatch


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One batch of the demo."""

    name: str
    title: str
    rollouts: RolloutBatch
    answers: list[Answer]
    """In submission order."""
    seconds: float


COLUMNS = ("prompt", "tokens", "lengths", "finish", "log-prob", "score", "ver", "wait s", "run s")


def print_report(console: Console, batches: Sequence[Shown]) -> None:
    """Print all tables; they fit into 80 columns."""
    for batch in batches:
        tokens = int(batch.rollouts.response_lengths.sum())
        console.rule(f"[bold]{batch.title}")
        console.print(f"{batch.rollouts.num_rows} completions, {tokens} tokens in {batch.seconds:.2f} s")
        table = Table(*COLUMNS, box=None, padding=(0, 1, 0, 0))
        for answer in batch.answers:
            table.add_row(*_cells(answer))
        console.print(table)
    console.rule("[bold]tensors")
    console.print(_shapes(batches))
    console.print(
        "log-prob: mean over sampled tokens, under the sampling distribution; ver: the policy version that sampled"
    )


def summary(batch: Shown) -> dict[str, Any]:
    """The same for a script, in JSON types only."""
    return {
        "title": batch.title,
        "seconds": round(batch.seconds, 3),
        "errors": len(batch.rollouts.errors),
        "prompts": [dict(zip(COLUMNS, _cells(answer), strict=True)) for answer in batch.answers],
        "shapes": {
            layout: {name: list(tensor.shape) for name, tensor in tensors.items()}
            for layout, tensors in _layouts(batch.rollouts).items()
        },
    }


def _cells(answer: Answer) -> list[str]:
    if isinstance(answer, GroupError):
        return [str(answer.group), "", "", f"error: {answer.message}", "", "", "", "", ""]
    reasons = Counter(answer.finish_reasons)
    versions = sorted({version for spans in answer.version_spans for version, _ in spans})
    return [
        str(answer.group),
        str(answer.prompt.shape[0]),
        " ".join(str(length) for length in answer.lengths.numpy()),
        " ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())),
        _mean_logprob(answer),
        "" if answer.scores is None else f"{answer.scores.numpy().max():.3f}",
        " ".join(f"v{version}" for version in versions),
        f"{answer.queued_s:.2f}",
        f"{answer.generate_s:.2f}",
    ]


def _mean_logprob(answer: GroupResult) -> str:
    tokens = int(answer.lengths.numpy().sum())
    return "" if answer.logprobs is None or tokens == 0 else f"{answer.logprobs.numpy().sum() / tokens:.3f}"


def _shapes(batches: Sequence[Shown]) -> Table:
    layouts = [_layouts(batch.rollouts) for batch in batches]
    table = Table("layout", "tensor", "dtype", *(batch.name for batch in batches), box=SIMPLE_HEAD)
    for layout in layouts[0]:
        names = dict.fromkeys(name for of_batch in layouts for name in of_batch[layout])
        for number, name in enumerate(names):
            tensors = [of_batch[layout].get(name) for of_batch in layouts]
            dtype = next(str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor is not None)
            shapes = ["" if tensor is None else "x".join(map(str, tensor.shape)) for tensor in tensors]
            table.add_row("" if number else layout, name, dtype, *shapes)
        table.add_section()
    return table


def _layouts(rollouts: RolloutBatch) -> dict[str, dict[str, Any]]:
    own = {field.name: getattr(rollouts, field.name) for field in fields(rollouts)}
    return {
        "RolloutBatch": {name: value for name, value in own.items() if hasattr(value, "dtype")},
        ".roll()": dict(rollouts.roll()),
        ".verl()": dict(rollouts.verl()),
    }
