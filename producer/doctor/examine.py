"""`rollstream doctor`: read a policy's queue once, then judge what was read. `diagnose` is pure."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable

from ..errors import RedisUnavailableError
from .finding import FAIL, OK, WARN, Finding
from .probe import Probe, probe
from .queue_checks import queue_findings
from .redis_checks import redis_findings, unreachable

_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def diagnose(found: Probe) -> list[Finding]:
    """The findings of all checks; each check gives at least one."""
    return [*redis_findings(found), *queue_findings(found)]


async def examine(url: str, keys: Keys, lease_s: float | None = None) -> list[Finding]:
    """Read the queue and judge it. `lease_s`: the workers' lease in seconds; None: the one that they agreed on.

    Never writes. A Redis that cannot be reached is a finding too.
    """
    try:
        return diagnose(await probe(url, keys, lease_s))
    except RedisUnavailableError as error:
        return [unreachable(error)]


def findings_table(findings: list[Finding]) -> Table:
    """One row for each finding, with the remedy below what was seen."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("", "check"):
        table.add_column(column, no_wrap=True)
    table.add_column("seen", overflow="fold")
    for finding in findings:
        seen = Text(printable(finding.seen))
        if finding.remedy:
            seen.append(f"\n-> {printable(finding.remedy)}", style="bold")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.check), seen)
    return table
