"""Let vLLM's statistics leave EngineCore every few steps, where vLLM would send them after each. Imports no vLLM.

Each message costs what a piece of tokens costs (`worker.engines.vllm.inside.held_tokens`), so statistics of every step
would make pieces useless. Runs inside EngineCore.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..inside.held_tokens import PIECE

STEPS = PIECE
"""Steps from message to message: no more messages of statistics than of pieces."""

LONGEST_S = 1.0
"""Seconds after which they leave in any case, where a step is slow. There a message costs nothing by comparison."""

STEPS_VARIABLE = "ROLLSTREAM_STATISTICS_STEPS"
"""Variable by which the worker tells its engine's processes the number of steps; not set: vLLM is left alone."""

_SPECULATION = "spec_decoding_stats"
_SUMMED = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
"""Numbers of `SpecDecodingStats` that are added up. Its numbers by position stay those of one step, for nobody."""


def unfit(make_stats: Any, speculation: Iterable[str]) -> list[str]:
    """What `send_rarely` needs and this vLLM lacks; `speculation` are the fields of `SpecDecodingStats`."""
    arguments = list(inspect.signature(make_stats).parameters)[1:2]
    return sorted({_SPECULATION}.difference(arguments) | set(_SUMMED).difference(speculation))


def tell(environment: MutableMapping[str, str], *, on: bool) -> None:
    """In the worker, before an engine starts: whether its EngineCore makes statistics, which then leave rarely."""
    environment.pop(STEPS_VARIABLE, None)
    if on:
        environment[STEPS_VARIABLE] = str(STEPS)


@dataclass(slots=True, kw_only=True)
class Interval:
    """When statistics leave next, and what was counted since they left last."""

    steps: int
    clock: Callable[[], float] = time.monotonic
    _left: int = 0
    _latest: float = 0.0
    _speculation: Any = None

    def add(self, speculation: Any) -> None:
        """Count one step, with its `SpecDecodingStats` or None."""
        self._left -= 1
        if speculation is None:
            return
        for name in _SUMMED if self._speculation is not None else ():
            setattr(speculation, name, getattr(speculation, name) + getattr(self._speculation, name))
        self._speculation = speculation

    def is_over(self) -> bool:
        """Whether enough steps or seconds have passed."""
        return self._left <= 0 or self.clock() >= self._latest

    def end(self) -> Any:
        """Begin the next interval; returns the `SpecDecodingStats` of the one that ends, None if it has none."""
        speculation, self._speculation = self._speculation, None
        self._left, self._latest = self.steps, self.clock() + LONGEST_S
        return speculation


def send_rarely(scheduler_class: Any, steps: int) -> None:
    """Make `scheduler_class` (vLLM's) give statistics after each `steps`-th step, and once it has nothing to run.

    vLLM itself adds up what happens to the prefix cache until they are made. What else it gives for each step (KV
    connectors, CUDA graphs, floating point operations) cannot be added up, and is left out.
    """
    make_stats = scheduler_class.make_stats
    if hasattr(make_stats, "is_sparse"):
        return

    def made(scheduler: Any, spec_decoding_stats: Any = None, *others: Any, **named: Any) -> Any:
        if spec_decoding_stats is None and not others and not named:  # not asked by a step: the engine is dying
            return make_stats(scheduler)
        interval: Interval = vars(scheduler).setdefault("rollstream_interval", Interval(steps=steps))
        interval.add(spec_decoding_stats)
        if scheduler.requests and not interval.is_over():
            return None
        return make_stats(scheduler, interval.end())

    made.is_sparse = True  # type: ignore[attr-defined] # a mark for the second call
    scheduler_class.make_stats = made
