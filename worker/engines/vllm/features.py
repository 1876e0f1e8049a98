"""Which options on a completion's text this vLLM honours with its settings. Imported like `gate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import ReasoningConfig, StructuredOutputsConfig
from vllm.platforms import current_platform

from rollstream.schemas.wire.images import MAX_IMAGES

from ...config import WorkerSettings
from ...errors import SettingsError
from .gate import runner_facts
from .images.offer import why_none
from .routing.model_shape import is_mixture
from .routing.offer import FLAG

_GUIDES = "xgrammar"
"""The one compiler of guides. Where vLLM may choose, the first guide decides which one all others meet."""


def with_rules(arguments: Mapping[str, Any], settings: WorkerSettings) -> dict[str, Any]:
    """`arguments` for `AsyncEngineArgs`, with what guides and thinking budgets need as vLLM's own objects."""
    guides = arguments.get("structured_outputs_config", {"backend": _GUIDES})
    rules: dict[str, Any] = {
        "structured_outputs_config": StructuredOutputsConfig(**guides) if isinstance(guides, dict) else guides
    }
    if settings.thinking_marks is not None:
        start, end = settings.thinking_marks.split()
        rules["reasoning_config"] = ReasoningConfig(reasoning_start_str=start, reasoning_end_str=end)
    if settings.routed_experts and not current_platform.is_cpu() and is_mixture(arguments["model"]):
        rules |= dict.fromkeys({FLAG}.intersection(field.name for field in fields(AsyncEngineArgs)), True)
    return {**arguments, **rules}


def all_facts(llm: Any) -> dict[str, Any]:
    """Fields of `EngineInfo` that `setup.read_info` cannot read. Raises `SettingsError` for unfit thinking marks."""
    facts, rules = runner_facts(llm.vllm_config), text_rules(llm.vllm_config, llm.tokenizer)
    features, missing = facts.get("features", frozenset()) | rules["features"], rules["missing"]
    if no_images := why_none(llm, on_cpu=current_platform.is_cpu()):
        missing = (*missing, ("images", no_images))
    else:
        features |= {"images"}
        facts["max_images"] = min(
            MAX_IMAGES, llm.vllm_config.model_config.multimodal_config.get_limit_per_prompt("image")
        )
    return {**facts, **rules, "features": features, "missing": missing}


def text_rules(config: Any, tokenizer: Any) -> dict[str, Any]:
    """Fields of `EngineInfo` on the text of completions, by vLLM's `VllmConfig` and the worker's tokenizer."""
    marks = _marks(config.reasoning_config)
    missing = dict(_missing(config, tokenizer, marks))
    end = getattr(tokenizer, "eos_token_id", None)
    return {
        "features": frozenset({"guided", "thinking_budget", "stop_on_repetition"} - missing.keys()),
        "missing": tuple(missing.items()),
        "guide_end_ids": () if end is None else (int(end),),
        "thinking_marks": marks,
    }


def _missing(config: Any, tokenizer: Any, marks: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    known = SamplingParams.__struct_fields__
    speculates = config.speculative_config is not None
    guides = config.structured_outputs_config
    if "repetition_detection" not in known:
        yield "stop_on_repetition", "this vLLM has no repetition_detection"
    if "structured_outputs" not in known:
        yield "guided", "this vLLM has no structured_outputs"
    elif speculates or guides.backend != _GUIDES or guides.reasoning_parser:
        yield (
            "guided",
            "--engine-args must not set a speculative_config, a reasoning_parser or another backend of guides",
        )
    elif tokenizer is not None and getattr(tokenizer, "eos_token_id", None) is None:
        yield "guided", "its tokenizer has no EOS, which would end what follows a guide"
    if marks is None:
        yield (
            "thinking_budget",
            "start the worker with --thinking-marks, such as '<think> </think>'",
        )
    elif "thinking_token_budget" not in known or speculates or getattr(config, "use_v2_model_runner", False):
        yield "thinking_budget", "it needs vLLM's V1 runner (VLLM_USE_V2_MODEL_RUNNER=0), without speculative decoding"


def _marks(reasoning: Any) -> tuple[int, int] | None:
    """The ids of the marks around thinking, each a single one, so that it is exact which ends were forced."""
    if reasoning is None or not reasoning.enabled:
        return None
    ids = reasoning.reasoning_start_token_ids, reasoning.reasoning_end_token_ids
    for text, found in zip((reasoning.reasoning_start_str, reasoning.reasoning_end_str), ids, strict=True):
        if len(found) != 1:
            problem = f"{text!r} is {len(found)} tokens of the worker's tokenizer, and each mark must be one"
            raise SettingsError(f"--thinking-marks: {problem}")
    return ids[0][0], ids[1][0]
