"""vLLM's weight transfer through links of ours, where there is no NCCL: the same steps, tensors come one by one."""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

BACKEND = "rollstream"


def register() -> None:
    """Make vLLM know it in this process, once."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, LinkedTransfer)


class LinkedTransfer(NCCLWeightTransferEngine):  # type: ignore[misc] # vLLM ships no complete types
    """Reads from a link of ours, as its parent does."""

    def receive_weights(self, update_info: Any) -> None:
        """Each tensor in the order of its name."""
        each = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for name, dtype, shape in each:
            weight = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            self.model_update_group.broadcast(weight, src=0)
            self.model.load_weights([(name, weight)])
