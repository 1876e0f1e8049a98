"""What is held back leaves at once where somebody asks for it, and before the engine stands still. Without vLLM."""

from __future__ import annotations

from inspect import signature
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.inside import hand_over
from rollstream.worker.engines.vllm.inside.held_tokens import HeldBack
from tests.worker.engines.vllm.inside.stepped_engine import Output, Step, output


def _core() -> type[Any]:
    class EngineCoreProc:
        """As much of vLLM's as matters here; a step gives each request one token."""

        def __init__(self, *names: str, version: str | None = None) -> None:
            kind = SimpleNamespace(
                output_kind=SimpleNamespace(name="FINAL_ONLY"), detokenize=False, num_logprobs=0, extra_args=None
            )
            requests = {
                name: SimpleNamespace(sampling_params=kind, resumable=False, num_output_tokens=0) for name in names
            }
            self.scheduler = SimpleNamespace(requests=requests, pause_state=SimpleNamespace(name="UNPAUSED"))
            self.output_queue: SimpleQueue[tuple[int, Step]] = SimpleQueue()
            self.version = version

        def step(self) -> tuple[dict[int, Step], bool]:
            outputs: list[Output] = []
            for name, request in self.scheduler.requests.items():
                outputs.append(output(name, request.num_output_tokens))
                request.num_output_tokens += 1
            step = Step(outputs, self.version)
            step.scheduler_stats = step.finished_requests = None  # type: ignore[attr-defined] # as vLLM's
            return {0: step}, True

        def pause_scheduler(self, mode: str = "abort", clear_cache: bool = True) -> str:
            self.output_queue.put((0, Step([Output("paused", [])])))
            return f"{mode} {clear_cache}"

        def run(self, steps: int) -> None:
            for _ in range(steps):
                for sent in self.step()[0].items():
                    self.output_queue.put(sent)

        def sent(self) -> list[tuple[str, list[int], str | None]]:
            steps = [self.output_queue.get()[1] for _ in range(self.output_queue.qsize())]
            return [(one.request_id, one.new_token_ids, step.weight_version) for step in steps for one in step.outputs]

    return EngineCoreProc


@pytest.fixture
def core() -> type[Any]:
    """With both changed as the plugin changes vLLM's."""
    core = _core()
    held: dict[int, HeldBack] = {}
    core.step = hand_over.holding_back(core.step, held, events=False)
    hand_over.on_demand(core, Step, held)
    return core


def test_it_hands_over_every_token_once_with_its_version_and_says_how_many_there_are(core: type[Any]) -> None:
    engine = core("a", "b", version="4")
    engine.run(3)
    assert engine.sent() == []

    counts = engine.rollstream_hand_over()

    assert counts == {"a": 3, "b": 3}
    assert engine.sent() == [("a", [0, 1, 2], "4"), ("b", [0, 1, 2], "4")]
    engine.run(2)
    assert engine.rollstream_hand_over() == {"a": 5, "b": 5}
    assert engine.sent() == [("a", [3, 4], "4"), ("b", [3, 4], "4")]


def test_a_vllm_that_names_no_versions_is_given_none(core: type[Any]) -> None:
    class Plain:
        weight_version = None

        def __init__(self, *, outputs: list[Output]) -> None:
            self.outputs = outputs

    engine = core("a")
    held: dict[int, HeldBack] = {}
    step = hand_over.holding_back(_core().step, held, events=False)
    step(engine)

    hand_over.send(engine, Plain, held)

    assert engine.sent() == [("a", [0], None)]


def test_all_is_handed_over_before_a_pause_ends_a_request(core: type[Any]) -> None:
    engine = core("a")
    engine.run(5)

    assert engine.pause_scheduler("abort", clear_cache=False) == "abort False"

    assert [(name, tokens) for name, tokens, _ in engine.sent()] == [("a", [0, 1, 2, 3, 4]), ("paused", [])]
    assert list(signature(core.pause_scheduler).parameters) == ["self", "mode", "clear_cache"]


def test_a_last_step_after_the_pause_holds_nothing_back(core: type[Any]) -> None:
    engine = core("a")
    engine.run(2)
    engine.pause_scheduler("keep")
    engine.scheduler.pause_state = SimpleNamespace(name="PAUSED_ALL")

    engine.run(1)

    assert [(name, tokens) for name, tokens, _ in engine.sent()] == [("a", [0, 1]), ("paused", []), ("a", [2])]


def test_a_second_call_changes_nothing(core: type[Any]) -> None:
    pause = core.pause_scheduler

    hand_over.on_demand(core, Step, {})

    assert core.pause_scheduler is pause
