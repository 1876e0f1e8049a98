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
    prefix: str = ""
    """Tells runs of the same settings apart."""

    @property
    def name(self) -> str:
        """The name of the run and of its file."""
        staleness = f"-{self.max_staleness}" if self.mode == "async" else ""
        return f"{self.prefix}{self.mode}{staleness}{'' if self.correction else '-uncorrected'}-seed{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where Redis and a worker run already, and the model that the worker was started with."""

    redis_url: str
    model: Path


def runs_of(arguments: Sequence[str] | None = None) -> tuple[list[Settings], Path, Place | None]:
    """The runs that are asked for, sync first, the folder for results, and where workers are, if they are not to be
    started. Ends the process at a wrong flag.
    """
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
    there = "a Redis with a worker for policy grpo, started with --weights redis; then a killed trainer goes on"
    parser.add_argument("--redis", metavar="URL", help=there)
    parser.add_argument("--model", type=Path, help="with --redis: the folder that the worker was started with")
    parser.add_argument("--run", default="", metavar="NAME", help="with --redis: begins the names of the runs")
    flags = parser.parse_args(arguments)
    if (flags.redis is None) != (flags.model is None):
        parser.error("--redis and --model belong together")
    if flags.redis is not None and flags.transport != "delta":
        parser.error("--redis needs --transport delta")
    runs = [] if flags.mode == "async" else [("sync", 0)]
    runs += [] if flags.mode == "sync" else [("async", staleness) for staleness in flags.max_staleness]
    loss = not flags.no_correction, flags.learning_rate
    prefix = f"{flags.run}-" if flags.run else ""
    common = (flags.steps, flags.seed, *loss, flags.reward_latency_s, flags.transport)
    place = None if flags.redis is None else Place(flags.redis, flags.model)
    return [Settings(*run, *common, prefix=prefix) for run in runs], flags.out, place


def _number(kind: Callable[[str], float], least: int) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not least <= (value := kind(text)) <= _LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {_LARGEST}")
        return value

    return number
