"""Starts vLLM with room for one token more than the worker tells of. Pure: imports no vLLM, and reads only attributes.

vLLM samples a token after each row that it scores, and wants room for it. So a row that fills the model's context can
be scored only by an engine whose limit is one higher. That token is never computed, so no position beyond the model's
own is used, which a model with a table of positions does not have; and it needs no place in the KV cache.
"""

from __future__ import annotations

from typing import Any


def given(arguments: Any) -> Any:
    """`arguments` (`AsyncEngineArgs`), which make a config whose limit is one higher once vLLM has checked theirs.

    So a limit beyond the model's is refused as ever, and one that follows from the memory (-1) is searched as ever.
    """
    make = arguments.create_model_config

    def create_model_config(*args: Any, **kwargs: Any) -> Any:
        config = make(*args, **kwargs)
        if config.max_model_len == arguments.max_num_batched_tokens and not _goes_in_chunks(arguments, config):
            arguments.max_num_batched_tokens += 1  # vLLM wants the longest prompt to fit into a step
        config.max_model_len += 1
        return config

    arguments.create_model_config = create_model_config
    return arguments


def told(max_model_len: int) -> int:
    """What the worker says of an engine with this limit."""
    return max_model_len - 1


def plan_without(core: Any) -> None:
    """In EngineCore's process, once: plan the KV cache as for the limit that was asked for.

    `core` is vLLM's module. Else a cache that just holds the longest completion would be refused, at the start.
    """
    plan = getattr(core, "get_kv_cache_configs", None)
    if plan is None or hasattr(plan, "without_one_more"):  # 0.26 to 0.32 have it
        return

    def get_kv_cache_configs(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        vllm_config.model_config.max_model_len -= 1
        try:
            return plan(vllm_config, *args, **kwargs)
        finally:  # vLLM may have lowered it, if it follows from the memory
            vllm_config.model_config.max_model_len += 1

    get_kv_cache_configs.without_one_more = True  # type: ignore[attr-defined] # a mark for the second call
    core.get_kv_cache_configs = get_kv_cache_configs


def _goes_in_chunks(arguments: Any, config: Any) -> bool:
    """Whether a prompt may be computed in several steps."""
    wanted = arguments.enable_chunked_prefill
    return bool(config.is_chunked_prefill_supported if wanted is None else wanted)
