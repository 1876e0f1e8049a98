"""The doctor's findings in lines, each with its remedy below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ...doctor.finding import FAIL, OK, WARN, Finding
from .fit import GAP, Cell, Lines, facts, longest_word, plain, wrapped

_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_LEVEL = max(map(len, _STYLES)) + GAP
_FEWEST = 30
"""Places that a finding needs beside the check's name; with fewer, or for a long word, it stands below it."""


def finding_lines(findings: Sequence[Finding], width: int) -> Lines:
    """Level, check and what was seen; the remedy in bold."""
    left = _LEVEL + max((len(finding.check) for finding in findings), default=0) + GAP
    lines = Lines()
    for finding in findings:
        check = Text.assemble((finding.level.ljust(_LEVEL), _STYLES[finding.level]), plain(finding.check))
        told: list[Cell] = [finding.seen, *([Text(f"-> {finding.remedy}", style="bold")] if finding.remedy else [])]
        if width - left < max(_FEWEST, *map(longest_word, told)):
            lines += [check, *facts(told[:1], width, indent=GAP), *facts(told[1:], width, indent=GAP)]
            continue
        beside = [line for text in told for line in wrapped(text, width - left)]
        first = Text.assemble(check, " " * (left - check.cell_len), beside[0])
        lines += [first, *(Text.assemble(" " * left, line) for line in beside[1:])]
    return lines
