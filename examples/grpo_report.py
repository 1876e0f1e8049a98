"""What a run of `grpo_async` measures and shows: progress, a table, a plot; also of several runs, by their JSON files.

python -m examples.grpo_report runs/*.json --out runs/grpo.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from producer import StalenessGate

Result = dict[str, Any]
"""Of `summary`, or as JSON has it."""

_LINES = 6


@dataclass(frozen=True)
class Settings:
    """Of one run. Runs of one seed start from the same weights and see the same prompts in the same order."""

    mode: str
    max_staleness: int
    steps: int
    seed: int
    correction: bool
    learning_rate: float
    reward_latency_s: float

    @property
    def name(self) -> str:
        """Also of its queue."""
        staleness = f"-{self.max_staleness}" if self.mode == "async" else ""
        return f"{self.mode}{staleness}{'' if self.correction else '-uncorrected'}-seed{self.seed}"


@dataclass
class Step:
    """What a step saw: times in seconds, differences as (sum of |worker's log-prob - trainer's|, tokens)."""

    reward: float
    idle_s: float = 0.0
    ended_s: float = 0.0
    tokens: int = 0
    tokens_by_version: dict[int, int] = field(default_factory=dict)
    difference_current: tuple[float, int] = (0.0, 0)
    difference_own: tuple[float, int] = (0.0, 0)
    mean_weight: float = 1.0
    truncated: float = 0.0


def summary(settings: Settings, steps: list[Step], gate: StalenessGate) -> Result:
    """The numbers of a run; the differences are None where no token was compared."""
    wall_s, tokens = steps[-1].ended_s, sum(step.tokens for step in steps)
    few = max(1, min(5, len(steps) // 4))
    return {
        "name": settings.name,
        "settings": asdict(settings),
        "reward_first": sum(step.reward for step in steps[:few]) / few,
        "reward_last": sum(step.reward for step in steps[-few:]) / few,
        "difference_current": _mean([step.difference_current for step in steps]),
        "difference_own": _mean([step.difference_own for step in steps]),
        "idle_share": sum(step.idle_s for step in steps) / wall_s,
        "tokens_per_s": tokens / wall_s,
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
    """A bar on stderr, and a line now and then. Yields what takes each `Step`."""
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
    """A few lines a run."""
    for result in results:
        shares = _staleness_shares([result]).items()
        console.print(
            f"{result['name']}: reward {result['reward_first']:.2f} to {result['reward_last']:.2f} in "
            f"{len(result['steps'])} steps, {result['wall_s']:.0f} s, {result['tokens_per_s']:.0f} tokens/s; "
            f"the trainer waited {result['idle_share']:.0%} of it\n"
            f"  staleness: {', '.join(f'{share:.0%} at {staleness}' for staleness, share in shares)}\n"
            f"  mean |worker's log-prob - trainer's|: {_difference(result['difference_current'])} "
            f"of the current version, {_difference(result['difference_own'])} under the weights that their spans name",
            soft_wrap=True,
            highlight=False,
        )


def _difference(found: dict[str, float] | None) -> str:
    return "no token" if found is None else f"{found['mean']:.1e} over {found['tokens']} tokens"


def write_plot(results: Sequence[Result], path: Path) -> Path:
    """Reward over steps and over wall time, staleness, idle share. Runs that differ in their seed share a colour."""
    import matplotlib  # noqa: PLC0415 - a run without a plot needs none

    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, ((by_step, by_time), (late, idle)) = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    groups = _grouped(results)
    width = 0.8 / len(groups)
    for number, runs in enumerate(groups.values()):
        colour = f"C{number}"
        rewards = [[step["reward"] for step in run["steps"]] for run in runs]
        for run, reward in zip(runs, rewards, strict=True):
            by_step.plot(reward, color=colour, alpha=0.25 if len(runs) > 1 else 1)
            by_time.plot([step["ended_s"] for step in run["steps"]], reward, color=colour, alpha=0.8)
        if len(runs) > 1:  # a step that some run lacks is left out
            by_step.plot([sum(seeds) / len(seeds) for seeds in zip(*rewards, strict=False)], color=colour, linewidth=2)
        shares = _staleness_shares(runs)
        centre = (number - (len(groups) - 1) / 2) * width
        late.bar([staleness + centre for staleness in shares], list(shares.values()), width, color=colour)
        idle.bar(number, sum(run["idle_share"] for run in runs) / len(runs), color=colour)
    by_step.set(xlabel="step", ylabel="mean reward", title="Reward over steps (bold: mean of several seeds)")
    by_time.set(xlabel="s", ylabel="mean reward", title="Reward over wall time")
    late.set(xlabel="versions between sampling and training", ylabel="share of samples", title="Staleness")
    idle.set(ylabel="share of wall time", ylim=(0, 1), title="Trainer waits for rollouts")
    idle.set_xticks(range(len(groups)), [label.replace(", ", "\n") for label in groups])
    late.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=idle.containers, labels=list(groups), loc="outside lower center", ncols=len(groups))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Sync first, then by staleness, the uncorrected last."""
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
    flags = parser.parse_args()
    results = [json.loads(path.read_text()) for path in flags.results]
    print_summary(Console(), results)
    write_plot(results, flags.out)


if __name__ == "__main__":
    main()
