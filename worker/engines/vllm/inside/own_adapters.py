"""On the CPU, each row of a step gets from its own adapter alone, and one without an adapter from none.

vLLM issues 48421 and 49656, mended in 0.33: index -1 (no adapter) picks the last slot's adapter. All three operations
are linear in their input, so a row of zeros gets nothing from any adapter.
"""

from __future__ import annotations

from typing import Any


def give(lora_ops: Any, punica_cpu: Any) -> None:
    """Change these two modules of vLLM, where it mixes rows up.

    vLLM also adds an adapter's output layer to logits, row by row for what is sampled: a score, which has more rows,
    would end the engine of a model whose output layer may have an adapter, such as Llama. None here has one, see
    `adapter_audit`.
    """
    punica_cpu.PunicaWrapperCPU.add_lora_logits = _nothing_added
    if not _mixes_up_rows(lora_ops.bgmv_shrink):
        return
    for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
        masked = _masked(getattr(lora_ops, name))
        setattr(lora_ops, name, masked)  # for the sgmv_* operations of prefill
        setattr(punica_cpu, name, masked)  # for decoding


def _nothing_added(*_args: Any, **_kwargs: Any) -> None:
    """In the place of `add_lora_logits`, whose result vLLM takes from the tensor that it gave."""


def _mixes_up_rows(bgmv_shrink: Any) -> bool:
    """Whether a row of index -1 is changed."""
    import torch  # noqa: PLC0415 - vLLM is only there inside its processes, torch with it

    row = torch.zeros(1, 1)
    bgmv_shrink(torch.ones(1, 1), torch.ones(1, 1, 1), row, torch.tensor([-1]))
    return bool(row.any())


def _masked(operation: Any) -> Any:
    def masked(inputs: Any, weights: Any, output: Any, indices: Any, *args: Any, **kwargs: Any) -> None:
        without = indices == -1
        if without.any():
            inputs = inputs.masked_fill(without[:, None], 0)
        operation(inputs, weights, output, indices, *args, **kwargs)

    return masked
