"""A LoRA policy version goes through the client's weight store, as an anchor or as what changed, with PEFT's config."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from rollstream import (
    AdapterError,
    ArgumentError,
    AsyncClient,
    PolicyVersion,
    PolicyVersionError,
    StoreOptions,
    WeightStoreError,
)
from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, read_chain, store_of
from tests.support.faults import Queue
from tests.support.weights.publishing import A, B, announced, blobs, lora, manifests, peft_folder, read_back
from tests.support.weights.weights_store import stored_tensors


@pytest.fixture
def store(tmp_path: Path, policy: str) -> WeightStore:
    (tmp_path / "store").mkdir()
    return store_of(tmp_path / "store", Keys(policy))


@pytest.fixture
async def client(redis_url: str, policy: str, store: WeightStore, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path / "store") as client:
        yield client


@pytest.fixture
def model(tiny_model: Path) -> Any:
    """A PEFT model of which nothing is zero."""
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)


async def config_of(store: WeightStore, version: PolicyVersion) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await read_chain(store, version.location))[-1].config)
    return found


async def arrived(store: WeightStore, version: PolicyVersion, tensors: dict[str, torch.Tensor]) -> bool:
    found = await stored_tensors(store, version.location)
    return found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


async def test_the_first_is_an_anchor_and_the_next_a_delta(
    client: AsyncClient, store: WeightStore, queue: Queue
) -> None:
    tensors = lora(width=256)
    first = await client.publish_policy(1, adapter=tensors, lora_alpha=8)
    tensors[A][0, 0] += 1
    second = await client.publish_policy(2, adapter=tensors, lora_alpha=8)

    assert [one for _, one in announced(queue)] == [first, second]
    assert (first.source, first.transport, first.base, first.requires) == ("adapter", "store", None, ("store",))
    assert (second.base, second.location) == (1, f"2-{second.sha256[:16]}")
    assert await arrived(store, second, tensors)
    anchor, delta = await read_chain(store, second.location)
    assert delta.num_bytes < anchor.num_bytes / 50
    assert (await config_of(store, second))["lora_alpha"] == 8
    assert [*manifests(queue), *blobs(queue)] == [], "it went through Redis as well"


async def test_a_folder_arrives_with_its_config_byte_for_byte(
    client: AsyncClient, store: WeightStore, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "adapter", lora())

    version = await client.publish_policy(1, adapter=folder)

    assert await arrived(store, version, lora())
    (manifest,) = await read_chain(store, version.location)
    assert manifest.config == (folder / "adapter_config.json").read_bytes()


async def test_a_peft_model_and_its_state_dict_are_its_adapter(
    client: AsyncClient, store: WeightStore, model: Any
) -> None:
    tensors = get_peft_model_state_dict(model)
    config = model.peft_config["default"]

    first = await client.publish_policy(1, model=model)
    second = await client.publish_policy(2, state_dict=tensors, peft_config=config)
    wrapped = torch.nn.Module()
    wrapped.module = model
    third = await client.publish_policy(3, model=wrapped)

    assert await arrived(store, first, {name: tensor.detach() for name, tensor in tensors.items()})
    assert first.sha256 == second.sha256 == third.sha256
    assert [(await config_of(store, first))[name] for name in ("r", "lora_alpha")] == [4, 12]


async def test_a_peft_model_goes_through_redis_where_there_is_no_store(
    trainer: AsyncClient, queue: Queue, model: Any
) -> None:
    version = await trainer.publish_policy(1, model=model)

    config, tensors = read_back(queue, version.location)
    assert (config["lora_alpha"], tensors.keys()) == (12, get_peft_model_state_dict(model).keys())


async def test_store_false_sends_one_through_redis(client: AsyncClient, store: WeightStore, queue: Queue) -> None:
    version = await client.publish_policy(1, adapter=lora(), lora_alpha=8, store=False)

    assert (version.transport, await store.items()) == ("folder", [])
    assert read_back(queue, version.location)[1].keys() == lora().keys()


async def test_a_cast_is_what_arrives(client: AsyncClient, store: WeightStore) -> None:
    version = await client.publish_policy(1, adapter=lora(), lora_alpha=8, dtype="bfloat16")

    assert await arrived(store, version, {name: tensor.bfloat16() for name, tensor in lora().items()})


async def test_tensors_are_copied_before_anything_is_awaited(client: AsyncClient, store: WeightStore) -> None:
    tensors = lora()
    publishing = asyncio.create_task(client.publish_policy(1, adapter=tensors, lora_alpha=8))
    await asyncio.sleep(0)  # the task runs up to where it first waits
    for tensor in tensors.values():
        tensor.zero_()

    assert await arrived(store, await publishing, lora())


async def test_one_is_announced_again_only_while_the_store_has_it(client: AsyncClient, store: WeightStore) -> None:
    first = await client.publish_policy(1, adapter=lora(1), lora_alpha=8)
    await client.publish_policy(2, adapter=lora(2), lora_alpha=8)
    again = await client.publish_policy(3, again=1)
    assert (again.location, again.source, again.transport) == (first.location, "adapter", "store")

    await store.delete([first.location])
    with pytest.raises(PolicyVersionError, match="the content of version 1 is not in the weight store"):
        await client.publish_policy(4, again=1)


async def test_old_ones_are_removed_and_a_quota_bounds_them_in_redis(redis_url: str, policy: str, queue: Queue) -> None:
    weights = StoreOptions(place="redis", quota_bytes=6_000, keep=1, grace_s=0)
    async with AsyncClient(redis_url, policy=policy, weights=weights) as client:
        for version in (1, 2, 3):
            newest = await client.publish_policy(version, adapter=lora(version), lora_alpha=8, base=None)
        with pytest.raises(WeightStoreError, match="this version needs about 32768 bytes, and"):
            await client.publish_policy(4, adapter=lora(4, width=1024, rank=4), lora_alpha=8)
        assert client._weights is not None
        items = [one.name for one in await client._weights.store.items()]
        assert await arrived(client._weights.store, newest, lora(3))

    assert [name for name in items if "-" in name] == [newest.location]
    assert [*manifests(queue), *blobs(queue)] == []


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"adapter": lora()}, AdapterError, "lora_alpha"),
        ({"adapter": {A: lora()[A]}, "lora_alpha": 8}, AdapterError, "needs both lora_A and lora_B"),
        ({"adapter": {**lora(), B: lora()[B] * float("nan")}, "lora_alpha": 8}, AdapterError, "NaN"),
        ({"adapter": lora(), "lora_alpha": 8, "dtype": "int8"}, ArgumentError, "bfloat16"),
        ({"adapter": lora(), "lora_alpha": 8, "base": 3}, PolicyVersionError, "has sent no version through the weight"),
        ({"adapter": "/no/such"}, AdapterError, "needs adapter_config.json"),
        ({"adapter": "/no/such", "dtype": "bfloat16"}, ArgumentError, "sent as it is"),
        ({"adapter": lora(), "lora_alpha": 8, "transport": "gloo"}, ArgumentError, "leave it out"),
        ({"adapter": lora(), "state_dict": lora()}, PolicyVersionError, "adapter= and state_dict="),
    ],
    ids=str,
)
async def test_what_workers_would_refuse_is_refused_before_anything_is_written(
    client: AsyncClient, store: WeightStore, queue: Queue, options: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await client.publish_policy(7, **options)
    assert (announced(queue), await store.items()) == ([], [])


async def test_a_peft_model_with_two_active_adapters_is_refused(client: AsyncClient, model: Any) -> None:
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(PolicyVersionError, match="has 2 active adapters: activate one"):
        await client.publish_policy(1, model=model)


@pytest.mark.parametrize(
    "given", [{"adapter": lora(), "lora_alpha": 8}, {"checkpoint": "step-1"}], ids=["adapter", "folder"]
)
async def test_without_the_store_a_base_says_that_there_are_no_deltas(trainer: AsyncClient, given: Any) -> None:
    with pytest.raises(PolicyVersionError, match="base=1: a delta goes through the weight store alone"):
        await trainer.publish_policy(2, base=1, **given)
