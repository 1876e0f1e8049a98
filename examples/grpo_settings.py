"""The settings of a run of `grpo_async`, on the command line and in its results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LARGEST = 10**6


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Runs of one seed start from the same weights and get the same prompts in order."""

    mode: str
    max_staleness: int
    steps: int
    seed: int
    correction: bool
    learning_rate: float
    reward_latency_s: float
    transport: str

    @property
    def name(self) -> str:
        """The name of the run and of its file."""
        staleness = f"-{self.max_staleness}" if self.mode == "async" else ""
        return f"{self.mode}{staleness}{'' if self.correction else '-uncorrected'}-seed{self.seed}"


def runs_of(arguments: Sequence[str] | None = None) -> tuple[list[Settings], Path]:
    """The runs that are asked for, sync first, and the folder for results. Ends the process at a wrong flag."""
    parser = argparse.ArgumentParser(prog="grpo_async", description="GRPO with rollouts from a worker process.")
    parser.add_argument("--mode", choices=("compare", "sync", "async"), default="compare", help="compare: both")
    late = "most versions late, in async mode: a run for each"
    parser.add_argument("--max-staleness", type=_number(int, 0), nargs="+", default=[1], metavar="K", help=late)
    parser.add_argument("--steps", type=_number(int, 1), default=60)
    parser.add_argument("--seed", type=_number(int, 0), default=0, help="of first weights, prompts and sampling")
    parser.add_argument("--no-correction", action="store_true", help="treat all rollouts as on-policy")
    parser.add_argument("--learning-rate", type=_number(float, 0), default=3e-3)
    parser.add_argument("--reward-latency-s", type=_number(float, 0), default=0, help="sleep a step: a slow reward")
    by = "delta: what changed goes to the workers through Redis; folder: whole checkpoints on a shared file system"
    parser.add_argument("--transport", choices=("delta", "folder"), default="delta", help=by)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the numbers and the plot")
    flags = parser.parse_args(arguments)
    runs = [] if flags.mode == "async" else [("sync", 0)]
    runs += [] if flags.mode == "sync" else [("async", staleness) for staleness in flags.max_staleness]
    loss = not flags.no_correction, flags.learning_rate
    common = (flags.steps, flags.seed, *loss, flags.reward_latency_s, flags.transport)
    return [Settings(*run, *common) for run in runs], flags.out


def _number(kind: Callable[[str], float], least: int) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not least <= (value := kind(text)) <= _LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {_LARGEST}")
        return value

    return number
