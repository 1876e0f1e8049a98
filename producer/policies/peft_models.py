"""Check a given scaling against the PEFT models of this process.

Tensors do not say how they are scaled. If the model from which they were taken is in this process, a wrong
`lora_alpha` is noticed.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rollstream.schemas.weights.adapter_config import config_problem, scaling


def contradiction(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """How a PEFT model of this process would apply these tensors differently from `config`; None if it would not.

    Asks the garbage collector for the models, then compares one module's pair of tensors. In a process with a million
    objects that takes 0.1 s or more; a trainer that passes `peft_config=` does not come here.
    """
    models = sys.modules.get("peft.tuners.lora.model")
    if models is None:
        return None
    for model in _living(models.LoraModel):
        for adapter, theirs in getattr(model, "peft_config", {}).items():
            if _holds(model, adapter, tensors) and (problem := _differs(theirs, config)):
                return (
                    f"the PEFT model in this process that has these tensors {problem}: pass "
                    f"peft_config=model.peft_config[{adapter!r}] instead of lora_alpha="
                )
    return None


def _living(kind: type) -> Iterator[Any]:
    """All instances of a class. Each refers to its class, so the garbage collector finds them faster than a search."""
    kinds = [kind]
    for one in kinds:
        kinds += one.__subclasses__()
    return (found for found in gc.get_referrers(*kinds) if type(found) in kinds)


def _holds(model: Any, adapter: str, tensors: Mapping[str, Any]) -> bool:
    """Whether one pair of `tensors` has the same values as the model's pair."""
    lower = next((name for name in tensors if name.endswith(".lora_A.weight")), "")
    stem = lower.removesuffix(".lora_A.weight")
    for part in ("lora_A", "lora_B"):
        try:
            theirs = model.get_parameter(f"{stem.removeprefix('base_model.')}.{part}.{adapter}.weight")
        except AttributeError:
            return False
        if not _same(theirs, tensors[f"{stem}.{part}.weight"]):
            return False
    return True


def _same(theirs: Any, ours: Any) -> bool:
    if theirs.shape != ours.shape or theirs.is_meta:
        return False
    return bool((theirs.detach().to(ours.dtype).to(ours.device) == ours.detach()).all())


def _differs(theirs: Any, config: Mapping[str, Any]) -> str | None:
    found = {**theirs.to_dict(), "target_modules": ["any"], "exclude_modules": None, "peft_type": "LORA"}
    if problem := config_problem(found):
        return f"cannot be served ({problem})"
    ours, wanted = scaling(config), scaling(found)
    if ours == wanted:
        return None
    rank_stabilised = " with use_rslora=True" if found.get("use_rslora") else ""
    return f"scales them by {wanted:g}{rank_stabilised}, and lora_alpha={config['lora_alpha']:g} alone by {ours:g}"
