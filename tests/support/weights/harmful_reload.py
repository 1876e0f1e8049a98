"""A reload of weights that goes wrong when it is told to, without a word, as a vLLM with a defect would."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from rollstream.worker.engines.vllm import setup
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.inside import packed_experts
from rollstream.worker.engines.vllm.inside.reception import Reception


class HarmfulReload(Reception):
    """`Reception` in vLLM's processes; its next reload does the harm that `tests_harm` names.

    A harm that ends with `for ever` is done by all reloads to come.
    """

    _harm = ""

    def tests_harm(self, harm: str) -> None:
        self._harm = harm

    def rollstream_reload(self, folder: str, staged: bool = False) -> None:
        harm, self._harm = self._harm, self._harm if self._harm.endswith("for ever") else ""
        model = self.model_runner.get_model()
        with pytest.MonkeyPatch.context() as patch:
            if harm.startswith("unpacked"):
                patch.setattr(packed_experts, "pack", lambda *_: None)
            if harm == "stale":
                patch.setattr(model, "load_weights", _without_a_layer(model.load_weights))
            super().rollstream_reload(folder, staged)
        with torch.inference_mode():
            _harm(model, harm)


def _harm(model: Any, harm: str) -> None:
    norm = next(weight for name, weight in model.named_parameters() if "layers.1.input_layernorm" in name)
    if harm == "bit":
        norm.view(torch.int32)[0] ^= 1 << 23  # 1.0 becomes 0.5
    elif harm in ("rotary", "for ever"):
        for table in (one.cos_sin_cache for one in model.modules() if hasattr(one, "cos_sin_cache")):
            table.mul_(0.9)
    elif harm == "nan":
        norm.fill_(float("nan"))


def _without_a_layer(load: Any) -> Any:
    def load_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        return load((name, weight) for name, weight in weights if "layers.1.mlp" not in name)

    return load_weights


def with_harm(patch: pytest.MonkeyPatch) -> None:
    """Make engines that start from now on able to do harm."""
    patch.setattr(setup, "EXTENSION", f"{__name__}.HarmfulReload")


async def harm_next(engine: VllmEngine, harm: str) -> None:
    await engine._llm.collective_rpc("tests_harm", args=(harm,))
