"""What a check of golden jobs found, in a table and as JSON. Pure."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rich.text import Text

from rollstream.schemas import GenerationConfig, Golden
from rollstream.schemas.golden.comparison import Finding, Outcome
from rollstream.schemas.golden.origin import recorded_with, version_of
from rollstream.schemas.printable import printable

from ...golden.check import Checked
from .fit import Cell, Column, Lines, table, wrapped
from .headline import many

_STYLES = {Outcome.EQUAL: "green", Outcome.DIVERGED: "yellow", Outcome.OFF: "bold red"}
_TOLD = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_COLUMNS = (
    Column(title="case", right=True, said="case {}"),
    Column(title="sample", right=True, rank=2),
    Column(title="sampling", rank=3, said="{}"),
    Column(title="tokens", right=True, said="{} tokens"),
    Column(title="agreed", right=True, rank=1, said="{} agreed"),
    Column(title="outcome", said="{}"),
    Column(title="mean nats", right=True, rank=1, said="{} nats off on average"),
    Column(title="largest", right=True, said="{} nats off at most"),
)


def recorded_line(golden: Golden) -> str:
    """What was recorded, in one line."""
    completions = sum(len(case.completions) for case in golden.cases)
    tokens = sum(len(one.token_ids) for case in golden.cases for one in case.completions)
    what = f"{many(len(golden.cases), 'case')}, {many(completions, 'completion')}, {many(tokens, 'token')}"
    return printable(f"recorded {what} with {recorded_with(golden)}, {_model(golden)}, {version_of(golden)}")


def checked_lines(golden: Golden, checked: Checked, width: int) -> Lines:
    """What was recorded and what answered, a row for each completion, and the verdict."""
    found = checked.comparison
    lines = wrapped(f"recorded with {recorded_with(golden)}, {_model(golden)}, {version_of(golden)}", width, indent=2)
    if checked.origin is not None:
        workers = many(len(checked.origin.workers), "worker")
        lines += wrapped(f"now {checked.origin}, {workers}", width, indent=2)
    rows = [_cells(golden, finding) for finding in found.findings]
    lines += table(_COLUMNS, rows, width).lines()
    allowed = f"{found.tolerance.mean:g} and {found.tolerance.largest:g} nats allowed"
    apart = f"mean {_mean(found.differences):.2g}, largest {found.differences.max(initial=0.0):.2g} nats off"
    verdict = Text("off", style="bold red") if found.problem else Text("reproduced", style="green")
    counted = f": {many(len(found.findings), 'completion')}, {found.diverged} diverged, {apart}, {allowed}"
    return [*lines, *wrapped(Text.assemble(verdict, counted), width, indent=2)]


def checked_json(golden: Golden, checked: Checked) -> dict[str, Any]:
    """The same as one object."""
    found = checked.comparison
    return {
        "reproduced": not found.problem,
        "problem": printable(found.problem),
        "tolerance": found.tolerance.model_dump(),
        "recorded": golden.model_dump(mode="json", exclude={"v", "kind", "batches", "tolerance"}),
        "now": None if checked.origin is None else dataclasses.asdict(checked.origin),
        "completions": [_json(finding) for finding in found.findings],
    }


def _json(finding: Finding) -> dict[str, Any]:
    names = ("case", "batch", "row", "sample", "tokens", "agreed")
    return {
        **{name: getattr(finding, name) for name in names},
        "outcome": finding.outcome.value,
        "mean": _number(finding.mean),
        "largest": _number(finding.largest),
        "problem": printable(finding.problem),
    }


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _cells(golden: Golden, finding: Finding) -> list[Cell]:
    return [
        str(finding.case),
        str(finding.sample),
        _sampling(golden.cases[finding.case].config),
        str(finding.tokens),
        str(finding.agreed),
        Text(finding.outcome.value, style=_STYLES[finding.outcome]),
        f"{finding.mean:.2g}" if finding.differences.size else "-",
        f"{finding.largest:.2g}" if finding.differences.size else "-",
    ]


def _sampling(config: GenerationConfig) -> str:
    if config.temperature == 0:
        return "greedy"
    others = [f"{name} {getattr(config, name):g}" for name in config.changed(_TOLD)]
    return ", ".join([f"temperature {config.temperature:g}", *others])


def _model(golden: Golden) -> str:
    return f"model {golden.model}" if golden.model else "no model"


def _mean(differences: Any) -> float:
    return float(differences.mean()) if differences.size else 0.0
