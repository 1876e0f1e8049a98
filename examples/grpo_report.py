"""What a run of `grpo_async` measures and shows: progress, a table, a plot; for several runs, from their JSON files.

python -m examples.grpo_report runs/*.json --out runs/grpo.png                # a few lines a run, and the plot
python -m examples.grpo_report runs/*.json --out runs/grpo.png --markdown     # a table instead of the lines
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.grpo_settings import Settings
from rollstream import StalenessGate

Result = dict[str, Any]
"""A run's result, from `summary` or from its JSON file."""

_LINES = 6
LEARNT = 0.9
"""Mean reward of a run that has learnt its task."""


@dataclass
class Step:
    """The measures of a step: times in seconds, differences as (sum of |worker's log-prob - trainer's|, tokens).

    `difference_by_spans` is over all tokens, each under the weights of the version that its span names;
    `difference_swapped` over the tokens of completions that went through a swap (`completions_swapped`);
    `difference_current` over the tokens of the trainer's current version. Weights are those that the loss used.
    """

    reward: float
    idle_s: float = 0.0
    ended_s: float = 0.0
    tokens: int = 0
    tokens_by_version: dict[int, int] = field(default_factory=dict)
    difference_current: tuple[float, int] = (0.0, 0)
    difference_by_spans: tuple[float, int] = (0.0, 0)
    difference_swapped: tuple[float, int] = (0.0, 0)
    completions_swapped: int = 0
    mean_weight: float = 1.0
    truncated: float = 0.0


def summary(settings: Settings, steps: list[Step], gate: StalenessGate) -> Result:
    """The numbers of a run; differences are None if no token was compared."""
    wall_s = steps[-1].ended_s
    few = max(1, min(5, len(steps) // 4))
    return {
        "name": settings.name,
        "settings": asdict(settings),
        "reward_first": sum(step.reward for step in steps[:few]) / few,
        "reward_last": sum(step.reward for step in steps[-few:]) / few,
        "difference_current": _mean([step.difference_current for step in steps]),
        "difference_by_spans": _mean([step.difference_by_spans for step in steps]),
        "difference_swapped": _mean([step.difference_swapped for step in steps]),
        "completions_swapped": sum(step.completions_swapped for step in steps),
        "idle_share": sum(step.idle_s for step in steps) / wall_s,
        "wall_s": wall_s,
        "staleness": dict(sorted(gate.staleness.items())),
        "late": gate.counts.late,
        "steps": [asdict(step) for step in steps],
    }


def _mean(parts: list[tuple[float, int]]) -> dict[str, float | int] | None:
    tokens = sum(number for _, number in parts)
    return {"mean": sum(total for total, _ in parts) / tokens, "tokens": tokens} if tokens else None


@contextmanager
def progress(name: str, steps: int) -> Iterator[Callable[[Step], None]]:
    """A bar on stderr, and a line now and then. Yields a function that takes each `Step`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=steps)
        number = 0

        def show(step: Step) -> None:
            nonlocal number
            number += 1
            bar.update(task, completed=number, description=f"{name} reward {step.reward:.2f}")
            if number % max(1, steps // _LINES) == 0:
                versions = ", ".join(f"v{version}: {tokens}" for version, tokens in step.tokens_by_version.items())
                bar.console.print(
                    f"{name} step {number}: reward {step.reward:.2f}, tokens of {versions}, {step.ended_s:.0f} s"
                )

        yield show


def print_summary(console: Console, results: Sequence[Result]) -> None:
    """Print a few lines for each run."""
    for result in results:
        shares = _staleness_shares([result]).items()
        console.print(
            f"{result['name']}: reward {result['reward_first']:.2f} to {result['reward_last']:.2f} in "
            f"{len(result['steps'])} steps, {result['wall_s']:.0f} s; "
            f"the trainer waited {result['idle_share']:.0%} of it, swaps let the worker stand still for "
            f"{result['stood_still_s']:.1f} s\n"
            f"  staleness: {', '.join(f'{share:.0%} at {staleness}' for staleness, share in shares)}\n"
            f"  mean |worker's log-prob - trainer's|: {_difference(result['difference_current'])} "
            f"of the current version, {_difference(result['difference_by_spans'])} under the weights that their spans "
            f"name, {_difference(result['difference_swapped'])} of the {result['completions_swapped']} completions "
            f"that lived through a swap",
            soft_wrap=True,
            highlight=False,
        )


def _difference(found: dict[str, float] | None) -> str:
    return "no token" if found is None else f"{found['mean']:.1e} over {found['tokens']} tokens"


def markdown(results: Sequence[Result]) -> str:
    """The table of docs/training.md, and a line on the log-probs of all runs. It has wall times unless seeds differ."""
    groups = _grouped(results)
    timed = _one_seed(groups)
    columns = ["mode", "seed", "reward, first 5 steps", "last 5 steps", f"steps to {LEARNT}",
               "samples at staleness 0, 1, ...", "trainer waits", *(["wall time"] if timed else [])]  # fmt: skip
    rows = [columns, ["---"] * len(columns)]
    for label, runs in groups.items():
        for run in sorted(runs, key=lambda run: int(run["settings"]["seed"])):
            shares = _staleness_shares([run])
            row = [label, str(run["settings"]["seed"]), f"{run['reward_first']:.2f}", f"{run['reward_last']:.2f}",
                   str(steps_to(LEARNT, [step["reward"] for step in run["steps"]]) or "never"),
                   ", ".join(f"{shares.get(staleness, 0):.0%}" for staleness in range(max(shares) + 1)),
                   f"{run['idle_share']:.0%}"]  # fmt: skip
            rows.append([*row, f"{run['wall_s']:.0f} s"] if timed else row)
    differences = textwrap.fill(_all_differences(results), 120, break_on_hyphens=False)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{differences}"


def steps_to(wanted: float, rewards: Sequence[float]) -> int | None:
    """The first step, counted from 1, whose mean reward with that of the next two steps is at least `wanted`."""
    means = [sum(three) / 3 for three in zip(rewards, rewards[1:], rewards[2:], strict=False)]
    return next((number for number, mean in enumerate(means, start=1) if mean >= wanted), None)


def _all_differences(results: Sequence[Result]) -> str:
    steps = [step for result in results for step in result["steps"]]
    spans, swapped, current = (
        _mean([step[f"difference_{kind}"] for step in steps]) for kind in ("by_spans", "swapped", "current")
    )
    worst = max(total / tokens for total, tokens in (step["difference_by_spans"] for step in steps))
    completions, late = (sum(result[name] for result in results) for name in ("completions_swapped", "late"))
    return (
        f"Mean |worker's log-prob - trainer's| in {len(results)} runs: {_difference(spans)}, each under the weights "
        f"that its span names (worst step {worst:.1e}); {_difference(swapped)} of the {completions} completions that "
        f"lived through a swap; {_difference(current)} of the trainer's current version. "
        f"Samples later than allowed: {late}."
    )


def _one_seed(groups: Mapping[str, Sequence[Result]]) -> bool:
    return all(len(runs) == 1 for runs in groups.values())


def write_plot(results: Sequence[Result], path: Path) -> Path:
    """Plot reward over steps, staleness and idle share, and wall time unless seeds differ. Seeds share a colour."""
    import matplotlib  # noqa: PLC0415 - a run without a plot needs none

    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    groups = _grouped(results)
    panels = 4 if _one_seed(groups) else 3
    figure, axes = pyplot.subplots(1, panels, figsize=(4 * panels, 4), layout="constrained")
    by_step, late, idle = axes[:3]
    width = 0.8 / len(groups)
    for number, runs in enumerate(groups.values()):
        colour = f"C{number}"
        rewards = [[step["reward"] for step in run["steps"]] for run in runs]
        for reward in rewards:
            by_step.plot(reward, color=colour, alpha=0.25 if len(runs) > 1 else 1)
        if len(runs) > 1:  # steps that not all runs have are left out
            by_step.plot([sum(seeds) / len(seeds) for seeds in zip(*rewards, strict=False)], color=colour, linewidth=2)
        if panels > 3:
            axes[3].plot([step["ended_s"] for step in runs[0]["steps"]], rewards[0], color=colour)
        shares = _staleness_shares(runs)
        centre = (number - (len(groups) - 1) / 2) * width
        late.bar([staleness + centre for staleness in shares], list(shares.values()), width, color=colour)
        idle.bar(number, sum(run["idle_share"] for run in runs) / len(runs), color=colour)
    by_step.set(xlabel="step", ylabel="mean reward", title="Reward over steps")
    if panels > 3:
        axes[3].set(xlabel="s", ylabel="mean reward", title="Reward over wall time")
    late.set(xlabel="versions between sampling and training", ylabel="share of samples", title="Staleness")
    idle.set(ylabel="share of wall time", ylim=(0, 1), title="Trainer waits for rollouts")
    idle.set_xticks([])
    late.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=idle.containers, labels=list(groups), loc="outside lower center", ncols=len(groups))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Runs by label: sync first, then by staleness, uncorrected ones last."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: (not result["settings"]["correction"], _staleness(result))):
        groups.setdefault(_label(result["settings"]), []).append(result)
    return groups


def _staleness(result: Result) -> int:
    return int(result["settings"]["max_staleness"])


def _label(settings: dict[str, Any]) -> str:
    mode = "sync" if settings["mode"] == "sync" else f"async, staleness {settings['max_staleness']}"
    return mode if settings["correction"] else f"{mode}, uncorrected"


def _staleness_shares(runs: Sequence[Result]) -> dict[int, float]:
    counts: dict[int, int] = {}
    for run in runs:
        for staleness, samples in run["staleness"].items():
            counts[int(staleness)] = counts.get(int(staleness), 0) + samples
    return {staleness: samples / sum(counts.values()) for staleness, samples in sorted(counts.items())}


def main() -> None:
    """Table and plot from JSON files."""
    parser = argparse.ArgumentParser(prog="grpo_report", description="Table and plot of several runs.")
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--markdown", action="store_true", help="print a table as docs/training.md has it")
    flags = parser.parse_args()
    results = [json.loads(path.read_text()) for path in flags.results]
    if flags.markdown:
        Console().print(markdown(results), soft_wrap=True, highlight=False, markup=False)
    else:
        print_summary(Console(), results)
    write_plot(results, flags.out)


if __name__ == "__main__":
    main()
