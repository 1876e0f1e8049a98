"""The parameters of a request for vLLM: its engine can surely decode them, and they mean what ours mean.

Only `worker.engines.vllm.engine` imports this, after it has prepared the environment that vLLM reads at import.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import vllm.envs
import vllm.exceptions
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from rollstream.schemas import ErrorCode

from ...engine import EngineInfo
from ...errors import DataError
from .causes import with_cause
from .words import check_bad_words

# vLLM raises these for a request that it will not run. 0.26 uses ValueError and TypeError; later versions have their
# own base class, and wrap any other error of adding a request in EngineGenerateError.
REFUSALS = (
    ValueError,
    TypeError,
    OverflowError,
    EngineGenerateError,
    msgspec.MsgspecError,
    vllm.exceptions.VLLMValidationError,
    getattr(vllm.exceptions, "VLLMClientError", ValueError),
)

_PARTS = {"structured_outputs": StructuredOutputsParams, "repetition_detection": RepetitionDetectionParams}
"""Fields that have classes of their own; each is given as its parts."""

_encoder, _decoder = MsgpackEncoder(), MsgpackDecoder(SamplingParams)


class _OwnStops(SamplingParams):  # type: ignore[misc] # vLLM's types are not looked at
    """Ends completions only at our stop ids, and bans only these before `min_tokens`.

    vLLM would also ban the EOS ids of the model and of its tokenizer, even if they end nothing.
    """

    def update_from_generation_config(self, *_args: Any, **_kwargs: Any) -> None:
        """vLLM calls this for each request; here it adds nothing."""


def runner_facts(config: Any) -> dict[str, Any]:
    """The fields of `EngineInfo` that vLLM's release, its device, its runner and its settings tell."""
    return {
        "runs_on": f"vllm {vllm.__version__} on {current_platform.get_device_name()}",
        "features": frozenset(_features(config)),
        **_table_limits(config),
    }


def _features(config: Any) -> Iterator[str]:
    yield "top_logprobs"
    if str(config.model_config.logprobs_mode) == "processed_logprobs":  # the raw ones do not show what was ruled out
        yield "sampling_support"
    if "logprob_token_ids" in SamplingParams.__struct_fields__:
        yield "label_token_ids"


def _table_limits(config: Any) -> dict[str, int]:
    """Sizes of the tables of vLLM's V2 runner, which only GPUs have. A request that exceeds one kills the engine."""
    if not getattr(config, "use_v2_model_runner", False):
        return {}
    from vllm.v1.worker.gpu.sample import bad_words, logit_bias  # noqa: PLC0415 - not every vLLM has them

    total = getattr(bad_words, "MAX_BAD_WORDS_TOTAL_TOKENS", None)  # a constant up to 0.26
    return {
        "max_allowed_ids": logit_bias.MAX_NUM_ALLOWED_TOKEN_IDS,
        "max_banned_stops": logit_bias.MAX_NUM_STOP_TOKEN_IDS,
        "max_bad_word_tokens": vllm.envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS if total is None else total,
    }


def passed_gate(prompt: list[int], fields: dict[str, Any]) -> Any:
    """`SamplingParams` that EngineCore can surely decode; an error in its decoding would hang the engine.

    Raises `DataError` (`engine_refused`).
    """
    try:
        if {type(token) for token in prompt} != {int}:
            raise TypeError("prompt ids must be integers")
        made = {name: kind(**fields[name]) for name, kind in _PARTS.items() if name in fields}
        params = _OwnStops(**fields | made, output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=True)
        _decoder.decode(_encoder.encode(params))
    except REFUSALS as error:
        raise refusal(error) from error
    return params


def banned_words(params: Any, tokenizer: Any, info: EngineInfo) -> list[list[int]]:
    """The `bad_words` as token ids, as vLLM will ban them. Raises `DataError` for words that it cannot ban."""
    if not params.bad_words:
        return []
    try:
        params.update_from_tokenizer(tokenizer)
    except REFUSALS as error:
        raise refusal(error) from error
    check_bad_words(params.bad_words_token_ids, info)
    return list(params.bad_words_token_ids)


def refusal(error: BaseException) -> DataError:
    """The error with which to answer a request that vLLM refused with `error`."""
    return DataError(ErrorCode.ENGINE_REFUSED, "config", f"vLLM refuses the request: {with_cause(error)}")
