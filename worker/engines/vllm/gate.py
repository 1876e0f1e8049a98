"""What is handed to vLLM: parameters that its engine is sure to decode, and that mean what ours mean.

Imported by `worker.engines.vllm.engine` alone, once the environment is ready that vLLM reads while it is imported.
"""

from __future__ import annotations

from typing import Any

import msgspec
import vllm.envs
import vllm.exceptions
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from rollstream.schemas import ErrorCode

from ...errors import DataError

# What vLLM raises for a request that it will not run. 0.26 uses ValueError and TypeError; later it has its own base,
# and wraps any other error of adding a request in EngineGenerateError.
REFUSALS = (
    ValueError,
    TypeError,
    OverflowError,
    EngineGenerateError,
    msgspec.MsgspecError,
    vllm.exceptions.VLLMValidationError,
    getattr(vllm.exceptions, "VLLMClientError", ValueError),
)

_encoder, _decoder = MsgpackEncoder(), MsgpackDecoder(SamplingParams)


class _OwnStops(SamplingParams):  # type: ignore[misc] # vLLM's types are not looked at
    """Ends where our stop ids say, and bans before `min_tokens` those ids and no others.

    vLLM would add the EOS ids of the model and of its tokenizer to what it bans, also where they end nothing.
    """

    def update_from_generation_config(self, *_args: Any, **_kwargs: Any) -> None:
        """Called by vLLM for each request."""


def table_limits(config: Any) -> dict[str, int]:
    """The tables of vLLM's V2 runner, which only GPUs have: a request beyond them ends its engine."""
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
    """`SamplingParams` that EngineCore is sure to decode: it does so outside any try, and what fails there hangs it.

    Raises `DataError` (`engine_refused`).
    """
    try:
        if {type(token) for token in prompt} != {int}:
            raise TypeError("prompt ids must be integers")
        params = _OwnStops(**fields, output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=True)
        _decoder.decode(_encoder.encode(params))
    except REFUSALS as error:
        raise refusal(error) from error
    return params


def refusal(error: BaseException) -> DataError:
    """What a request is answered with that vLLM refuses with `error`."""
    return DataError(ErrorCode.ENGINE_REFUSED, "config", f"vLLM refuses the request: {error}")
