"""`make autoscale`: a day of made-up load on real workers that are scaled as KEDA does it, then the same day on a fixed
fleet in which batches wait no longer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.support.report import write
from tests.autoscaling.day import HOURS, PLACES, make_day
from tests.autoscaling.fixed import as_good
from tests.autoscaling.report import draw, print_report, report_of
from tests.autoscaling.rules import Rules
from tests.autoscaling.trial import Show, run_day

_LEAST_DAY_S = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when nothing was lost, doubled or strange, else 1."""
    options = _options(argv)
    console, rules = Console(), _rules(options)
    day = make_day(options.seed, options.day_s, options.interruptions, options.samples)
    told = f"{len(day.arrivals)} batches in a day of {options.day_s:g} s, at most {rules.most} workers"
    console.print(f"seed {options.seed}: {told}")
    size = fixed = None
    with _bars(console) as bar:
        scaled = run_day(day, options.day_s, rules, fixed=None, seed=options.seed, show=bar("autoscaled"))
        if options.compare:
            size = as_good(day, options.day_s, scaled.p95 * options.day_s / (HOURS * 3600))
            fixed = run_day(day, options.day_s, rules, fixed=size, seed=options.seed, show=bar(f"{size} workers"))
    print_report(console, scaled, fixed)
    if options.json is not None:
        settings = {
            "seed": options.seed,
            "seconds of a day": options.day_s,
            "most workers": rules.most,
            "rules": asdict(rules),
        }
        write(options.json, [report_of(scaled, fixed, size, settings)])
    if options.plot is not None:
        draw(day, scaled, fixed, size, rules, options.plot)
    return 1 if scaled.problems or (fixed is not None and fixed.problems) else 0


def _rules(options: argparse.Namespace) -> Rules:
    down = replace(Rules().down, stabilization_s=options.stabilization_s)
    return Rules(most=options.most, down=down)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make autoscale",
        description=(
            "Scale real worker processes (on the stub engine) over a made-up day, as KEDA and the HPA would with the "
            "ScaledObject of deploy/k8s: from nothing in the night, through a burst, with some workers killed as spot "
            "instances are, and back to nothing. It reads /backlog of a real exporter. Then run the same day on the "
            "smallest fixed fleet in which batches wait no longer, and check every answer of both."
        ),
        epilog='make autoscale ARGS="--seed 7 --plot day.png". The seed decides load and kills, not the timing.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides when which batch comes, and when workers are killed"
    )
    parser.add_argument(
        "--day-s", type=float, default=300.0, help="real seconds of a day, at least 10; 300 is 288 times as fast"
    )
    parser.add_argument("--most", type=int, default=8, help="maxReplicaCount; two cores carry eight stub workers")
    parser.add_argument(
        "--stabilization-s", type=float, default=Rules().down.stabilization_s,
        help="stabilizationWindowSeconds of scaleDown, by the day's clock",
    )  # fmt: skip
    parser.add_argument("--interruptions", type=int, default=6, help="workers killed without warning")
    parser.add_argument(
        "--samples", type=int, choices=(1, 2, 4), default=PLACES, help="completions of a job; 4 fill one"
    )
    parser.add_argument("--no-compare", dest="compare", action="store_false", help="leave the fixed fleet out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, as benchmarks do")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the day (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.day_s < _LEAST_DAY_S or options.most < 1 or options.interruptions < 0:
        parser.error(f"--day-s is at least {_LEAST_DAY_S}, --most at least 1, --interruptions at least 0")
    return options


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str], Show]]:
    """Makes a bar on the terminal for each day."""
    columns = (TextColumn("{task.description:12}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def bar(title: str) -> Show:
            task = progress.add_task(title, total=HOURS, told="")
            return lambda hour, told: progress.update(task, completed=hour, told=f"{min(hour, HOURS):4.1f} h, {told}")

        yield bar


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
