"""What a chaos run shows: a table with and without faults side by side, and the same as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.chaos.plan import Plan

if TYPE_CHECKING:
    from tests.chaos.run import Pass

SHOWN_PROBLEMS = 20


def print_report(console: Console, plan: Plan, calm: Pass, chaos: Pass) -> None:
    """The table, the first problems, and the verdict."""
    table = Table("", "without faults", "with faults", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = zip(_rows(plan, calm).items(), _rows(plan, chaos).values(), strict=True)
    for (name, before), after in rows:
        table.add_row(name, before, after, style=_style(name, before, after))
    console.print(table)
    console.print("versions: " + ", ".join(f"{count} {kind}" for kind, count in sorted(_kinds(plan).items())))
    console.print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.struck.items())))
    console.print("exits: " + ", ".join(f"{count} with {code}" for code, count in sorted(chaos.exits.items())))
    problems = [*calm.findings.problems, *chaos.findings.problems]
    for problem in problems[:SHOWN_PROBLEMS]:
        console.print(problem, style="red", markup=False)
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"... and {len(problems) - SHOWN_PROBLEMS} more")
    verdict = "nothing lost, nothing twice" if calm.clean and chaos.clean else "FAILED"
    console.print(verdict, style="bold green" if calm.clean and chaos.clean else "bold red")


def _rows(plan: Plan, run: Pass) -> dict[str, str]:
    found = run.findings
    return {
        "jobs submitted": str(plan.num_jobs),
        "groups submitted": str(plan.num_groups + _malformed_groups(plan)),
        "groups answered": str(found.answered),
        "doubled": str(found.doubled),
        "lost": str(found.lost),
        "wrong": str(found.wrong),
        "still pending": str(found.pending),
        "given up without fault": str(found.given_up),
        "tokens of unproven versions": str(found.unproven),
        "workers behind at the end": str(found.behind),
        "completions of two versions": str(found.swapped),
        "exits nobody asked for": str(run.strange_exits),
        "answered with an error": str(found.errors),
        "redelivered": str(found.redelivered),
        "jobs taken over": str(run.taken_over),
        "fenced": str(run.fenced),
        "dead letters": str(found.dead),
        "replies lost": str(run.lost_replies),
        "seconds": f"{run.seconds:.1f}",
        "groups a second": f"{found.answered / max(run.seconds, 1e-9):.0f}",
    }


def _kinds(plan: Plan) -> Counter[str]:
    return Counter(one.kind for one in plan.versions)


def _malformed_groups(plan: Plan) -> int:
    entries = (entry for entries in plan.malformed for entry in entries)
    return sum(entry.envelope.num_groups for entry in entries if entry.envelope is not None)


def _style(name: str, before: str, after: str) -> str:
    must_be_none = name in (
        "doubled",
        "lost",
        "wrong",
        "still pending",
        "given up without fault",
        "tokens of unproven versions",
        "workers behind at the end",
        "exits nobody asked for",
    )
    return "red" if must_be_none and (before, after) != ("0", "0") else ""


def summary(plan: Plan, calm: Pass, chaos: Pass) -> dict[str, Any]:
    """JSON types only."""
    return {
        "seed": plan.seed,
        "jobs": plan.num_jobs,
        "groups": plan.num_groups + _malformed_groups(plan),
        "workers": plan.workers,
        "versions": dict(_kinds(plan)),
        "clean": calm.clean and chaos.clean,
        "without_faults": _numbers(calm),
        "with_faults": _numbers(chaos),
    }


def _numbers(run: Pass) -> dict[str, Any]:
    return {
        **asdict(run.findings),
        "seconds": round(run.seconds, 3),
        "groups_per_s": round(run.findings.answered / max(run.seconds, 1e-9), 1),
        "fenced": run.fenced,
        "taken_over": run.taken_over,
        "replies_lost": run.lost_replies,
        "faults": dict(run.struck),
        "exits": {str(code): count for code, count in run.exits.items()},
        "strange_exits": run.strange_exits,
    }
