"""A policy version that is a LoRA adapter: which one was meant, and its tensors through the weight store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.hashes.runs import RunFence
from rollstream.schemas.weights.adapter_tensors import PREFIX

from ..calls.arguments import number
from ..errors import ArgumentError
from ..policies.adapter_files import AdapterFiles, read_adapter
from ..policies.adapter_tensors import Scaling
from ..policies.errors import AdapterError, PolicyVersionError
from ..policies.publish_options import PublishOptions
from ..policies.publish_policy import announce_weights
from ..policies.serving_terms import ServingTerms
from ..policies.versions_stream import check_publishable
from ..redis_io.connection import Connection
from .choice import check_base
from .model_tensors import cast_dtype
from .publisher import WeightsPublisher
from .tensor_values import TensorValues

_WRAPPED = ("module", "_orig_mod")
"""Where DistributedDataParallel and torch.compile keep the model."""


def with_adapter(version: int, options: PublishOptions) -> PublishOptions:
    """The same options, with an adapter as `adapter=` that was given as `model=` or `state_dict=`, cast if asked for.

    Raises `PolicyVersionError`, `ArgumentError`.
    """
    given = options
    if options["model"] is not None and options["state_dict"] is None and options["adapter"] is None:
        given = _of_model(version, options)
    elif _is_adapter(options["state_dict"]) and options["model"] is None and options["adapter"] is None:
        given = {**options, "adapter": options["state_dict"], "state_dict": None}
    if given["adapter"] is None or options["again"] is not None:
        return options
    return _cast(given)


async def publish_stored_adapter(
    connection: Connection,
    keys: Keys,
    version: int,
    options: PublishOptions,
    *,
    publisher: WeightsPublisher,
    fence: RunFence | None = None,
) -> PolicyVersion:
    """Send the adapter of `options` through the weight store, and announce it. Raises as `publish_policy` does."""
    check_base(version, options["base"])
    terms = ServingTerms.of(options["probe"], options["activate"], fence)
    scaling = Scaling(
        lora_alpha=number(options["lora_alpha"]),
        use_rslora=options["use_rslora"],
        peft_config=options["peft_config"],
    )
    # Before anything else is awaited: this copies the tensors.
    files = await read_adapter(f"policy version {version}", options["adapter"] or {}, scaling)
    if files.incomplete:
        raise AdapterError(files.name, files.incomplete)

    async def announce(announcement: PolicyVersion) -> PolicyVersion:
        return await announce_weights(connection, keys, announcement, terms)

    async with publisher.turn:
        await check_publishable(connection, keys, version, "adapter")
        tensors = await asyncio.to_thread(_tensors, files)
        return await publisher.publish(
            version, tensors, options["base"], announce, config=files.config, progress=options["progress"]
        )


def _of_model(version: int, options: PublishOptions) -> PublishOptions:
    """A PEFT model's active adapter instead of the model; any other model is left where it is."""
    model: Any = options["model"]
    for name in _WRAPPED:
        model = model if _is_peft(model) else getattr(model, name, model)
    if not _is_peft(model):
        return options
    active = list(model.active_adapters)
    if len(active) != 1:
        problem = f"the PEFT model has {len(active)} active adapters: activate one (set_adapter), or give adapter="
        raise PolicyVersionError(version, problem)
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - a trainer that has such a model has it loaded

    # True would look for the base model on a hub; trained embeddings are refused by the config.
    tensors = get_peft_model_state_dict(model, adapter_name=active[0], save_embedding_layers=False)
    config: Any = model.peft_config[active[0]]
    given: PublishOptions = {**options, "model": None, "adapter": tensors}
    return given if options["peft_config"] is not None else {**given, "peft_config": config}


def _is_peft(model: object) -> bool:
    return type(model).__module__.partition(".")[0] == "peft" and isinstance(getattr(model, "peft_config", None), dict)


def _is_adapter(state_dict: object) -> bool:
    """Whether all tensors have names of an adapter's, as `get_peft_model_state_dict` gives them."""
    return (
        isinstance(state_dict, Mapping)
        and bool(state_dict)
        and all(isinstance(name, str) and PREFIX in name and ".lora_" in name for name in state_dict)
    )


def _cast(options: PublishOptions) -> PublishOptions:
    adapter, dtype = options["adapter"], cast_dtype(options["dtype"])
    if dtype is None:
        return options
    if not isinstance(adapter, Mapping):
        raise ArgumentError("dtype", options["dtype"], "a folder is sent as it is: save it in that dtype")
    import torch  # noqa: PLC0415 - a trainer that publishes tensors has it loaded

    def cast(value: Any) -> Any:
        return value.to(getattr(torch, dtype)) if isinstance(value, torch.Tensor) else value

    return {**options, "adapter": {name: cast(value) for name, value in adapter.items()}, "dtype": None}


def _tensors(files: AdapterFiles) -> dict[str, TensorValues]:
    """The tensors, copied out of the bytes of a safetensors file that was checked. Blocks. Raises `AdapterError`."""
    data = memoryview(b"".join(files.chunk(number) for number in range(len(files.chunk_digests))))
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:begin]))
    found = {}
    for name, told in header.items():
        if name != "__metadata__":
            start, end = told["data_offsets"]
            values = np.frombuffer(data[begin + start : begin + end], np.uint8).copy()
            found[name] = TensorValues(told["dtype"], tuple(told["shape"]), values)
    return found
