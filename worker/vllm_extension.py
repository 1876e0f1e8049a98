"""Runs inside vLLM's workers: all weights are read again, and none of the old ones is left behind."""

from __future__ import annotations

from typing import Any

EXTENSION = f"{__name__}.WeightReload"
"""For vLLM's `worker_extension_cls`."""


class WeightReload:
    """Its methods become methods of vLLM's worker, and so targets of `collective_rpc`."""

    model_runner: Any
    vllm_config: Any
    reload_weights: Any

    def rollstream_reload(self, folder: str) -> None:
        """Replace the weights by those of `folder`, which must fit.

        After an error they are a mixture, and nothing may run before another reload.
        """
        model = self.model_runner.get_model()
        try:
            self.reload_weights(weights_path=folder)
        except BaseException:
            _end_reload(model, self.vllm_config)
            raise
        _repack_tied_head(model)


def _end_reload(model: Any, vllm_config: Any) -> None:
    """A reload that failed half way leaves layers that wait for their other half: no later reload would work."""
    from vllm.config import set_current_vllm_config  # noqa: PLC0415 - vLLM is only there inside its processes

    try:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload  # noqa: PLC0415 - see above
    except ImportError:
        return
    with set_current_vllm_config(vllm_config):
        finalize_layerwise_reload(model, vllm_config.model_config)


def _repack_tied_head(model: Any) -> None:
    """On the CPU a layer multiplies with a packed copy of its weight, and vLLM forgets that of a tied output layer."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

    head = getattr(model, "lm_head", None)
    head = getattr(head, "base_layer", head)
    tied = getattr(model.config, "tie_word_embeddings", False)
    if not (tied and current_platform.is_cpu() and hasattr(head, "cpu_linear")):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # noqa: PLC0415 - see above

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
