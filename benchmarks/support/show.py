"""The command that prints and draws a file of reports: `python -m benchmarks.support.show FILE [--plot PNG]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.support import plots
from benchmarks.support.report import read


def main() -> None:
    """Print and draw a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.support.show", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the medians")
    parser.add_argument("--benchmark", action="append", metavar="NAME", help="repeat for several; default: all")
    arguments = parser.parse_args()
    reports = [one for one in read(arguments.file) if one.benchmark in (arguments.benchmark or [one.benchmark])]
    if not reports:
        parser.error(f"{arguments.file} has no such benchmark")
    for report in reports:
        sys.stdout.write(f"## {report.benchmark}\n\n{report.date}, `{report.command}`\n\n{report.table()}\n\n")
    if arguments.plot is not None:
        plots.plot(reports, arguments.plot)


if __name__ == "__main__":
    main()
