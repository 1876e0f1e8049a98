"""`make families`: see the package."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.support.report import command_line, commit, machine
from rollstream.producer.demo.worker_process import SMALL_MODEL_ENV
from tests.families.outcomes import FEATURES, Row, as_json, from_json, table
from tests.families.shapes import FAMILIES

EXIT_FINE, EXIT_WRONG, EXIT_INTERRUPTED = 0, 1, 130

ABOUT = """Start the real engine on a small model of each family, and compare what it gives with transformers and peft:
sampled log-probs, scores, an adapter of peft, beams, EOS and chat, live swaps there and back with a probe.

A cell of the table is the largest difference in nats, or says what the worker refused, with its words below the table.
It runs on the CPU, and on a GPU in float32 where vLLM can (adapters: bfloat16). Nothing is downloaded.

exit codes: 0 each cell is right or refused by name; 1 one is wrong, or an engine died; 2 a wrong argument;
130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when each cell is right or was refused."""
    asked = _parser().parse_args(argv)
    for name, value in SMALL_MODEL_ENV.items():
        os.environ.setdefault(name, value)
    families, features = asked.family or list(FAMILIES), asked.cell or list(FEATURES)
    if asked.show:
        rows: dict[str, Row] = _read(asked.show)
        shown = table(dict(sorted(rows.items(), key=lambda row: list(FAMILIES).index(row[0]))), features)
    else:
        rows = asyncio.run(_run(families, features, asked))
        shown = table(rows, features)
    sys.stdout.write(f"\n{shown}\n{_command()}, {commit()}, {datetime.now(UTC).date().isoformat()}\n")
    if asked.table is not None:
        asked.table.write_text(shown)
    return EXIT_FINE if all(cell.is_fine for row in rows.values() for cell in row.values()) else EXIT_WRONG


async def _run(families: Sequence[str], features: Sequence[str], asked: argparse.Namespace) -> dict[str, Row]:
    from tests.families.trial import run_family  # imports vLLM, which --help does without

    rows: dict[str, Row] = {}
    console = Console(stderr=True)
    columns = TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(families))
        for family in families:
            began = time.monotonic()
            rows[family] = await run_family(family, features, _shown_by(progress, task, family), asked.dtype)
            progress.advance(task)
            _tell(console, family, rows[family], time.monotonic() - began)
            if asked.json is not None:  # after each, so that a run that is broken off leaves what it found
                _write(asked.json, rows)
    return rows


def _shown_by(progress: Progress, task: TaskID, family: str) -> Callable[[str], None]:
    return lambda told: progress.update(task, description=f"{family}: {told}")


def _command() -> str:
    return command_line().replace(".__main__", "", 1)


def _tell(console: Console, family: str, row: Row, seconds: float) -> None:
    cells = ", ".join(f"{feature} {cell.ended}" for feature, cell in row.items())
    console.print(f"{family}: {cells} ({seconds:.0f} s)", markup=False, highlight=False)


def _write(file: Path, rows: dict[str, Row]) -> None:
    told = {"command": _command(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**told, "machine": machine(), "families": as_json(rows)}, indent=1))


def _read(files: Sequence[Path]) -> dict[str, Row]:
    """All rows of the reports; of a family that is in several, each cell is the last one's."""
    rows: dict[str, Row] = {}
    for file in files:
        for family, row in from_json(json.loads(file.read_text())["families"]).items():
            rows[family] = {**rows.get(family, {}), **row}
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make families ARGS=...", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, metavar="NAME",
                        help=f"only this one; may be repeated: {'; '.join(FAMILIES)}")  # fmt: skip
    parser.add_argument("--cell", action="append", choices=FEATURES, metavar="NAME",
                        help=f"only this column; may be repeated: {'; '.join(FEATURES)}")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="all cells in this type; by default float32, adapters on a GPU in bfloat16")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each cell here, after every family")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table here too, as Markdown")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE",
                        help="start nothing: print one table of the reports of earlier runs (--json)")  # fmt: skip
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
