"""vLLM starts with a limit that is one higher than the one that was checked, and whatever started without does so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.one_more import given, plan_without, told


class Arguments:
    """As `AsyncEngineArgs`: a model of 64 positions, and no limit above them."""

    def __init__(self, max_model_len: int | None, batched: int | None = None, *, chunks: bool | None = False) -> None:
        self.max_model_len = max_model_len
        self.max_num_batched_tokens = batched
        self.enable_chunked_prefill = chunks

    def create_model_config(self) -> Any:
        if (self.max_model_len or 0) > 64:
            raise ValueError(f"{self.max_model_len} is greater than 64")
        length = 64 if self.max_model_len in (None, -1) else self.max_model_len
        return SimpleNamespace(max_model_len=length, is_chunked_prefill_supported=True)


class Core:
    """As the module of EngineCore: a cache of some tokens, of which a limit of -1 takes what there is."""

    def __init__(self, room: int) -> None:
        self.room = room

    def get_kv_cache_configs(self, config: Any, asked: int) -> str:
        if asked == -1:
            config.model_config.max_model_len = min(config.model_config.max_model_len, self.room)
        if config.model_config.max_model_len > self.room:
            raise ValueError("no room")
        return "planned"


@pytest.mark.parametrize(("asked", "started"), [(None, 65), (64, 65), (40, 41), (-1, 65)])
def test_the_limit_is_one_higher(asked: int | None, started: int) -> None:
    arguments = given(Arguments(asked))

    assert arguments.create_model_config().max_model_len == started
    assert arguments.max_model_len == asked


def test_a_limit_beyond_the_models_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 64"):
        given(Arguments(65)).create_model_config()


@pytest.mark.parametrize(
    ("batched", "chunks", "started"),
    [(40, False, 41), (40, True, 40), (40, None, 40), (39, False, 39), (50, False, 50), (None, False, None)],
)
def test_a_step_that_just_holds_the_longest_prompt_holds_one_more(
    batched: int | None, chunks: bool | None, started: int | None
) -> None:
    arguments = given(Arguments(40, batched, chunks=chunks))

    arguments.create_model_config()

    assert arguments.max_num_batched_tokens == started


@pytest.mark.parametrize(("asked", "room", "known"), [(64, 64, 64), (64, 100, 64), (-1, 64, 64), (-1, 48, 48)])
def test_the_cache_is_planned_for_what_was_asked(asked: int, room: int, known: int) -> None:
    core = Core(room)
    config = SimpleNamespace(model_config=given(Arguments(asked)).create_model_config())
    plan_without(core)
    plan_without(core)

    assert core.get_kv_cache_configs(config, asked) == "planned"
    assert told(config.model_config.max_model_len) == known


def test_a_cache_that_is_too_small_is_refused() -> None:
    core = Core(63)
    plan_without(core)
    config = SimpleNamespace(model_config=given(Arguments(64)).create_model_config())

    with pytest.raises(ValueError, match="no room"):
        core.get_kv_cache_configs(config, 64)

    assert config.model_config.max_model_len == 65


def test_a_vllm_that_plans_elsewhere_is_left_alone() -> None:
    core = SimpleNamespace()

    plan_without(core)

    assert vars(core) == {}
