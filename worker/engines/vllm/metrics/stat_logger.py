"""Our end of vLLM's statistics in the worker's process; what EngineCore sends of them is in `sparse_statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerStats

from ....errors import SettingsError
from .statistics import Statistics, unfit


class EngineStatistics:
    """The statistics of one engine. Nothing counts before `begin`: a first request takes seconds, and is no job."""

    def __init__(self) -> None:
        """Raises `SettingsError` where this vLLM has other statistics."""
        finished = FinishedRequestStats(finish_reason=FinishReason.STOP)
        if missing := unfit(SchedulerStats(), IterationStats(), finished):
            raise SettingsError(f"--engine-metrics: this vLLM has no {', '.join(missing)}: run without the flag")
        self._counted: Statistics | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._counted = Statistics()

    def collectors(self) -> Sequence[Statistics]:
        """What is counted, once it is."""
        return () if self._counted is None else (self._counted,)

    def record(self, scheduled: Any, received: Any) -> None:
        """Take what one message brought: `SchedulerStats` or None, `IterationStats` or None."""
        if self._counted is None:
            return
        if received is not None:
            self._counted.received(received)
        if scheduled is not None:
            self._counted.scheduled(scheduled)

    def logger_class(self) -> type:
        """For `stat_loggers` of `AsyncLLM`, which makes one logger of it.

        It is of the class of vLLM's own logger for Prometheus, because vLLM adds that one where no other is of its
        class. What else that class does, in this vLLM or a later one, is answered with nothing.
        """

        def record(_logger: Any, scheduler_stats: Any, iteration_stats: Any, **_others: Any) -> None:
            self.record(scheduler_stats, iteration_stats)

        methods = [name for name in dir(PrometheusStatLogger) if not name.startswith("_")]
        silent = {name: _nothing for name in methods if callable(getattr(PrometheusStatLogger, name))}
        return type("OurStatLogger", (PrometheusStatLogger,), {**silent, "__init__": _nothing, "record": record})


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for a method of vLLM's logger."""
