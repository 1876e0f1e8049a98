"""What EngineCore says of its KV cache, with statistics off. Without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rollstream.worker.engines.vllm.inside import memory_use


def _classes() -> tuple[Any, Any]:
    class Scheduler:
        def __init__(self) -> None:
            self.running = ["a", "b"]
            self.requests = dict.fromkeys("abcde")
            self.kv_cache_manager = SimpleNamespace(usage=0.25)

        def _preempt_request(self, request: str, timestamp: float) -> None:
            assert timestamp >= 0
            self.running.remove(request)

        def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
            while reset_running_requests and self.running:
                self._preempt_request(self.running[-1], 0.0)
            return True

    class EngineCore:
        def __init__(self) -> None:
            self.scheduler = Scheduler()

    return EngineCore, Scheduler


def test_it_says_how_full_it_is_and_who_runs_and_waits() -> None:
    engine_core, scheduler = _classes()
    memory_use.tell(engine_core, scheduler)

    assert engine_core().rollstream_memory_use() == [0.25, 2, 3, 0]


def test_it_counts_those_put_back_for_lack_of_memory_and_not_those_of_a_swap() -> None:
    engine_core, scheduler = _classes()
    memory_use.tell(engine_core, scheduler)
    memory_use.tell(engine_core, scheduler)
    engine = engine_core()

    engine.scheduler._preempt_request("a", 0.0)
    assert engine.rollstream_memory_use() == [0.25, 1, 4, 1]
    assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert engine.rollstream_memory_use() == [0.25, 0, 5, 1]


def test_a_vllm_that_takes_memory_away_in_another_way_says_nothing() -> None:
    engine_core, scheduler = _classes()
    del scheduler._preempt_request
    memory_use.tell(engine_core, scheduler)

    assert engine_core().rollstream_memory_use() == []
