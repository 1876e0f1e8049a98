"""Tensors of a running model become a policy version, without a folder in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rollstream import (
    ArgumentError,
    AsyncClient,
    CheckpointError,
    Client,
    PolicyVersionError,
    StoreOptions,
    WeightStoreError,
)
from rollstream.producer.weights.model_tensors import Tensors, copied, published
from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, read_manifest, store_of
from tests.support.faults import Queue
from tests.support.weights.publishing import announced
from tests.support.weights.weights_store import stored_tensors

NAN = float("nan")


def sent(tensors: dict[str, Any], dtype: str | None = None) -> Tensors:
    """What a publish of this state dict sends."""
    return copied(1, published(1, tensors), dtype)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(place: Path, policy: str) -> WeightStore:
    return store_of(place, Keys(policy))


@pytest.fixture
def client(redis_url: str, policy: str, place: Path) -> Any:
    with Client(redis_url, policy=policy, weights=place) as client:
        yield client


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def state(*names: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn((8, 4), generator=generator) for name in names or ("a.weight", "b.weight")}


async def test_a_model_arrives_as_save_pretrained_would_write_it(
    redis_url: str, policy: str, place: Path, store: WeightStore, tiny_model: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")

    async with AsyncClient(redis_url, policy=policy, weights=place) as client:
        version = await client.publish_policy(3, model=model)

    assert same(await stored_tensors(store, version.location), load_file(tmp_path / "saved" / "model.safetensors"))


def test_an_announcement_says_that_it_comes_through_the_store(client: Client, queue: Queue) -> None:
    first = client.publish_policy(1, state_dict=state())
    changed = state()
    changed["a.weight"][0, 0] += 1
    second = client.publish_policy(2, state_dict=changed)

    assert [version for _, version in announced(queue)] == [first, second]
    assert (first.source, first.transport, first.base, first.requires) == ("checkpoint", "store", None, ("store",))
    assert (second.transport, second.base) == ("store", 1)
    assert second.location == f"2-{second.sha256[:16]}"


async def test_a_cast_is_what_arrives_and_whole_numbers_stay(
    redis_url: str, policy: str, place: Path, store: WeightStore
) -> None:
    tensors = {**state(), "steps": torch.tensor([3, 4]), "flag": torch.tensor(True)}

    async with AsyncClient(redis_url, policy=policy, weights=place) as client:
        version = await client.publish_policy(1, state_dict=tensors, dtype=torch.bfloat16)

    found = await stored_tensors(store, version.location)
    floats = {name: tensor.bfloat16() for name, tensor in state().items()}
    assert same(found, {**floats, "steps": tensors["steps"], "flag": tensors["flag"]})


async def test_tensors_are_copied_before_anything_is_awaited(
    redis_url: str, policy: str, place: Path, store: WeightStore
) -> None:
    tensors = state()

    async with AsyncClient(redis_url, policy=policy, weights=place) as client:
        publishing = asyncio.create_task(client.publish_policy(1, state_dict=tensors))
        await asyncio.sleep(0)  # the task runs up to where it first waits
        for tensor in tensors.values():
            tensor.zero_()
        version = await publishing

    assert same(await stored_tensors(store, version.location), state())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod._fsdp_wrapped_module.{name}",
        lambda name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module._fsdp_wrapped_module."),
    ],
)
def test_names_of_wrappers_are_left_out(wrap: Any) -> None:
    names = ("model.layers.0.mlp.weight", "lm_head.weight")

    assert set(sent({wrap(name): torch.ones(2) for name in names})) == set(names)


def test_a_module_called_module_keeps_its_name() -> None:
    assert set(sent({"module.a": torch.ones(1), "b": torch.ones(1)})) == {"module.a", "b"}


def test_an_output_layer_in_the_embedding_s_memory_is_sent_once() -> None:
    table = torch.nn.Parameter(torch.randn(8, 4))
    tensors = {"model.embed_tokens.weight": table, "lm_head.weight": table, "other.weight": table}

    assert set(sent(tensors)) == {"model.embed_tokens.weight", "other.weight"}
    assert "lm_head.weight" in sent({**tensors, "lm_head.weight": table.detach().clone()})


def test_buffers_that_loaders_compute_are_not_sent() -> None:
    tensors = {"model.rotary_emb.inv_freq": torch.ones(4), "a.weight": torch.ones(1)}

    assert set(sent(tensors)) == {"a.weight"}


def test_views_and_scalars_arrive_in_their_own_order() -> None:
    tensors = {"turned": torch.arange(6.0).reshape(2, 3).T, "part": torch.arange(9.0)[::2], "scalar": torch.tensor(1.5)}

    found = sent(tensors)

    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].values.tobytes() == tensor.contiguous().numpy().tobytes()


class Odd(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "it has no tensor"),
        ({"a": 1}, "tensor 'a' is some int"),
        ({"a": [1.0]}, "is some list"),
        ({3: torch.ones(1)}, "a tensor's name is a text, not 3"),
        ({"": torch.ones(1)}, "a name has 1 to 500"),
        ({"a\nb": torch.ones(1)}, "a name has 1 to 500"),
        ({"a": torch.ones(1, device="meta")}, "on the meta device"),
        ({"a": torch.ones(2, 2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2).as_subclass(Odd)}, "is some Odd"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "is torch.complex64: cast it"),
        ({"a": torch.tensor([1.0, NAN])}, "NaN or infinite: its training diverged"),
        ({"a": torch.tensor([-float("inf")]).bfloat16()}, "NaN or infinite"),
        ({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}, "two tensors are both a"),
        ({"q_proj.lora_A.weight": torch.ones(1)}, "belongs to an adapter: merge it"),
    ],
)
def test_what_are_no_weights_of_a_model_is_refused_by_name(
    tensors: Any, told: str, client: Client, queue: Queue
) -> None:
    with pytest.raises(PolicyVersionError, match=told):
        client.publish_policy(1, state_dict=tensors)
    assert announced(queue) == []


def test_a_cast_that_overflows_says_so() -> None:
    with pytest.raises(PolicyVersionError, match="infinite once it is cast to float16"):
        sent({"a": torch.tensor([1e6])}, "float16")


def test_a_tensor_spread_over_processes_is_refused_with_how_to_gather_it() -> None:
    class Mesh:
        def __init__(self, size: int) -> None:
            self.size = lambda: size

    class Sharded:
        def __init__(self, size: int) -> None:
            self.device_mesh = Mesh(size)

        def full_tensor(self) -> torch.Tensor:
            raise AssertionError("the other processes would not take part")

    with pytest.raises(PolicyVersionError, match=r"get_model_state_dict\(model"):
        sent({"a": Sharded(2)})


def test_a_distributed_tensor_of_one_process_is_gathered(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=(tmp_path / "group").as_uri(), rank=0, world_size=1)
    try:
        plain = torch.arange(8.0).reshape(4, 2)
        spread = distribute_tensor(plain, init_device_mesh("cpu", (1,)), [Shard(0)])
        found = sent({"a": spread})
    finally:
        distributed.destroy_process_group()

    assert found["a"].values.tobytes() == plain.numpy().tobytes()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, PolicyVersionError, "state_dict= or model=, not neither"),
        ({"store": True}, PolicyVersionError, "not nothing"),
        ({"state_dict": {}, "model": torch.nn.Linear(1, 1)}, PolicyVersionError, "not state_dict= and model="),
        ({"model": torch.ones(1)}, PolicyVersionError, "is a torch module, not some Tensor"),
        ({"state_dict": [1]}, PolicyVersionError, "not some list"),
        ({"state_dict": {"a": torch.ones(1)}, "dtype": "int8"}, ArgumentError, "bfloat16"),
        ({"state_dict": {"a": torch.ones(1)}, "base": 1}, PolicyVersionError, "has sent no version through the"),
        ({"state_dict": {"a": torch.ones(1)}, "base": 7}, PolicyVersionError, "the number of an older version"),
        ({"state_dict": {"a": torch.ones(1)}, "base": "6"}, PolicyVersionError, "the number of an older version"),
        ({"state_dict": {"a": torch.ones(1)}, "lora_alpha": 8}, PolicyVersionError, "lora_alpha= is for adapter="),
        ({"adapter": {}, "transport": "nccl"}, ArgumentError, "an adapter goes through the weight store or Redis"),
        ({"checkpoint": "/no/such", "store": True}, CheckpointError, "no folder"),
        ({"checkpoint": "/no/such", "store": True, "dtype": "bfloat16"}, ArgumentError, "sent as it is"),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_refused(
    client: Client, queue: Queue, options: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        client.publish_policy(7, **options)
    assert announced(queue) == []


def test_a_client_without_a_store_says_how_to_name_one(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, pytest.raises(PolicyVersionError, match='weights="redis"'):
        client.publish_policy(1, state_dict=state())


def test_a_place_that_cannot_be_a_store_is_refused_when_the_client_is_made(policy: str) -> None:
    with pytest.raises(WeightStoreError, match="no such folder"):
        Client(policy=policy, weights="/no/such/folder")
    with pytest.raises(ArgumentError, match="StoreOptions"):
        Client(policy=policy, weights=7)  # type: ignore[arg-type]


def test_store_options_out_of_bounds_are_refused(policy: str) -> None:
    for wrong in ({"anchor_every": 0}, {"keep": 0}, {"quota_bytes": -1}, {"grace_s": -1}, {"compression": "lz4"}):
        with pytest.raises(ArgumentError):
            Client(policy=policy, weights=StoreOptions(place="redis", **wrong))


async def test_a_folder_s_tensors_go_through_the_store(
    redis_url: str, policy: str, place: Path, store: WeightStore, models: Path
) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=place) as client:
        first = await client.publish_policy(1, checkpoint=models / "step-1", store=True)
        second = await client.publish_policy(2, checkpoint=models / "step-1", store=True)

    assert same(await stored_tensors(store, first.location), load_file(models / "step-1" / "model.safetensors"))
    assert (second.base, second.sha256) == (1, first.sha256)
    assert (await read_manifest(store, second.location)).chunks == ()


def test_a_folder_with_a_weight_that_is_not_finite_is_refused(client: Client, steps: Path) -> None:
    file = steps / "step-1" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[3] = NAN
    save_file(tensors, file, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match="NaN or infinite"):
        client.publish_policy(1, checkpoint=steps / "step-1", store=True)
