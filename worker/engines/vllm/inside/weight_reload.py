"""Runs inside vLLM's workers: read all weights again, and leave none of the old ones behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..staging.staged_weights import StagedWeights
from . import logits, packed_experts, reached_experts, routing, swappable
from .adapter_audit import AdapterAudit

_TABLES = "rollstream_tables"
"""The attribute of a model with its computed layers and copies of their tables."""


class WeightReload(AdapterAudit, StagedWeights):
    """The methods become methods of vLLM's worker, so that `collective_rpc` can call them."""

    model_runner: Any
    vllm_config: Any
    reload_weights: Any
    add_lora: Any
    _reached: reached_experts.ReachedExperts

    def rollstream_watch_logits(self) -> bool:
        """See `worker.engines.vllm.inside.logits.watch_rows`."""
        return logits.watch_rows(self.model_runner)

    def rollstream_add_adapter(self, name: str, int_id: int, path: str, num_tensors: int) -> str:
        """Load an adapter from a file of `num_tensors` tensors. Returns why it is not in the model as a whole, or ''.

        Both in one call: if requests with other adapters fill all slots, the next step removes it again.
        """
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - vLLM is only there inside its processes

        self.add_lora(LoRARequest(lora_name=name, lora_int_id=int_id, lora_path=path))
        return self.rollstream_adapter_problem(int_id, num_tensors)

    def rollstream_swappable(self) -> tuple[bool | None, str]:
        """`swappable.tied` and `swappable.why_not` for the model of this process."""
        from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

        model = self.model_runner.get_model()
        _keep_tables(model)
        doubt = swappable.why_not(model, self.vllm_config, on_cpu=current_platform.is_cpu())
        return swappable.tied(model), doubt

    def rollstream_mixes_experts(self) -> bool:
        """Whether the model is a mixture whose routers tell which experts they choose."""
        return bool(reached_experts.routers_of(self.model_runner.get_model()))

    def rollstream_watch_experts(self) -> None:
        """Note the experts that are chosen from now on, until `rollstream_experts_reached`."""
        self._reached = reached_experts.ReachedExperts(self.model_runner.get_model())

    def rollstream_experts_reached(self, tokens: int) -> tuple[int, int] | None:
        """See `ReachedExperts.end`."""
        return self._reached.end(tokens)

    def rollstream_routing(self) -> tuple[list[int], str]:
        """See `worker.engines.vllm.inside.routing.layers_of`."""
        return routing.layers_of(self.model_runner.get_model())

    def rollstream_model_doubt(self) -> str:
        """Why this build of vLLM would die of the model or compute it wrong; empty if it would not."""
        from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

        architectures = self.vllm_config.model_config.architectures
        if self.vllm_config.lora_config is not None and (doubt := swappable.wrong_with_adapters(architectures)):
            return doubt
        if not current_platform.is_cpu():
            return ""
        if packed_experts.has_adapters(self.model_runner.get_model()):
            return packed_experts.NO_ADAPTERS
        return swappable.wrong_on_cpu(architectures)

    def rollstream_reload(self, folder: str, staged: bool = False) -> None:
        """Replace the weights by those in `folder`, which must fit the model; or by those that are staged.

        After an error the weights are a mixture, and nothing may run before another reload.
        """
        with replacing(self.model_runner.get_model(), self.vllm_config):
            if staged:
                self.reload_weights(weights_iterator=self.rollstream_staged_tensors())
            else:
                self.reload_weights(weights_path=folder)
        repair(self.model_runner)


@contextmanager
def replacing(model: Any, vllm_config: Any) -> Iterator[None]:
    """Entered while vLLM replaces all weights, from wherever they come. After an error they are a mixture."""
    try:
        with _without_false_alarms(model), _as_in_its_checkpoint(model):
            packed_experts.unpad(model)
            yield
            packed_experts.pack(model, vllm_config)
    except BaseException:
        _end_reload(model, vllm_config)
        raise


def repair(model_runner: Any) -> None:
    """Renew what a reload of vLLM forgets. Call it after each that did not fail."""
    model = model_runner.get_model()
    _repack_tied_head(model)
    _restore_tables(model)
    _forget_keys_and_values(model_runner.kv_caches)


def _end_reload(model: Any, vllm_config: Any) -> None:
    """Clean up after a failed reload: half-loaded layers wait for the rest, and no later reload would work."""
    from vllm.config import set_current_vllm_config  # noqa: PLC0415 - vLLM is only there inside its processes

    try:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload  # noqa: PLC0415 - see above
    except ImportError:
        return
    with set_current_vllm_config(vllm_config):
        finalize_layerwise_reload(model, vllm_config.model_config)


@contextmanager
def _without_false_alarms(model: Any) -> Iterator[None]:
    """Suppress vLLM's warnings of layers that a reload did not touch, if no checkpoint has anything for them.

    These are computed tables (rotary embeddings) and an output layer that is the embedding, whose weights are new.
    """
    silent = {type(layer).__name__ for layer in model.modules() if _is_computed(layer)}
    silent.update(type(head).__name__ for head in swappable.tied_heads(model))
    alarms = {f"{name}: Failed to load weights" for name in silent}

    def keeps(record: logging.LogRecord) -> bool:
        return record.getMessage() not in alarms

    logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)


@contextmanager
def _as_in_its_checkpoint(model: Any) -> Iterator[None]:
    """Remove LoRA's wrappers around layers for the reload: vLLM 0.26 does not find wrapped layers by name.

    Wrappers around layers without weights stay, because vLLM 0.32 looks for one of them.
    """
    from vllm.lora.layers import BaseLayerWithLoRA  # noqa: PLC0415 - vLLM is only there inside its processes

    around = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, BaseLayerWithLoRA) and next(layer.base_layer.parameters(), None) is not None
    ]
    for parent, name, layer in around:
        setattr(parent, name, layer.base_layer)
    try:
        yield
    finally:
        for parent, name, layer in around:
            setattr(parent, name, layer)


def _is_computed(layer: Any) -> bool:
    """Whether the layer has tensors but none that a checkpoint saves."""
    saved = layer._buffers.keys() - layer._non_persistent_buffers_set
    return bool(layer._buffers) and not saved and not layer._parameters


def _keep_tables(model: Any) -> None:
    """Copy the computed tables of a model that was just started: no checkpoint brings one back once it is wrong."""
    setattr(
        model,
        _TABLES,
        [
            (layer, {name: table.cpu().clone() for name, table in layer._buffers.items() if table is not None})
            for layer in model.modules()
            if _is_computed(layer)
        ],
    )


def _restore_tables(model: Any) -> None:
    import torch  # noqa: PLC0415 - vLLM is only there inside its processes, torch with it

    with torch.inference_mode():
        for layer, tables in getattr(model, _TABLES, ()):
            for name, table in tables.items():
                layer._buffers[name].copy_(table)


def _repack_tied_head(model: Any) -> None:
    """Renew the packed copy of a tied output layer, with which the CPU multiplies and which vLLM's reload forgets."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

    heads = [head for head in swappable.tied_heads(model) if hasattr(head, "cpu_linear")]
    if not (heads and current_platform.is_cpu()):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # noqa: PLC0415 - see above

    for head in heads:
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def _forget_keys_and_values(kv_caches: list[Any]) -> None:
    """On the CPU, clear the KV cache: a NaN from old weights would reach the next sequence that gets the block.

    Masked positions are multiplied by 0 there, and 0 * NaN is NaN. No sequence has a block now, because of the pause.
    """
    import torch  # noqa: PLC0415 - vLLM is only there inside its processes
    from vllm.platforms import current_platform  # noqa: PLC0415 - see above

    if not current_platform.is_cpu():
        return
    with torch.inference_mode():
        for cache in kv_caches:
            if isinstance(cache, torch.Tensor):
                cache.zero_()
