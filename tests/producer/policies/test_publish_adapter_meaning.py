"""An adapter that a worker would apply otherwise than PEFT does is an error of its publisher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from rollstream import AdapterError, AsyncClient, PolicyVersionError
from rollstream.schemas.weights.adapter_config import config_problem
from tests.support.faults import Queue
from tests.support.weights.publishing import A, B, announced, blobs, lora, manifests, peft_folder, read_back


class Tiny(nn.Module):
    """A model with one module for LoRA, at the path that `lora()` uses."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"self_attn": Attention()})])})


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(32, 32)


def trained(**fields: Any) -> Any:
    """A PEFT model whose adapter has weights."""
    model: Any = get_peft_model(cast("Any", Tiny()), LoraConfig(r=4, target_modules=["q_proj"], **fields))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_()
    return model


@pytest.fixture
def stabilised() -> Any:
    return trained(lora_alpha=8, use_rslora=True)


def config_of(queue: Queue, name: str) -> dict[str, Any]:
    return read_back(queue, name)[0]


async def test_how_tensors_are_scaled_is_told_by_name_or_by_pefts_config(
    trainer: AsyncClient, queue: Queue, stabilised: Any
) -> None:
    tensors, config = get_peft_model_state_dict(stabilised), stabilised.peft_config["default"]
    ways: list[dict[str, Any]] = [
        {"lora_alpha": 8, "use_rslora": True},
        {"peft_config": config},
        {"peft_config": config.to_dict()},
        {
            "peft_config": {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 8,
                "use_rslora": True,
                "target_modules": {"q_proj"},
            }
        },
    ]
    for number, way in enumerate(ways):
        await trainer.publish_adapter("math", number, tensors, **way)

        found = config_of(queue, f"math@{number}")
        assert (found["r"], found["lora_alpha"], found["use_rslora"]) == (4, 8, True)
        assert (found["target_modules"], config_problem(found)) == (["q_proj"], None)
    await trainer.publish_policy(1, adapter=tensors, peft_config=config)
    assert config_of(queue, announced(queue)[0][1].location)["use_rslora"] is True


async def test_pefts_own_folder_is_published_as_it_is(
    trainer: AsyncClient, queue: Queue, stabilised: Any, tmp_path: Path
) -> None:
    stabilised.save_pretrained(tmp_path / "a")

    await trainer.publish_adapter("math", 1, tmp_path / "a")

    assert config_of(queue, "math@1") == json.loads((tmp_path / "a" / "adapter_config.json").read_text())


@pytest.mark.parametrize("copies", [False, True], ids=["the model's own", "copies in bfloat16"])
async def test_a_word_that_the_peft_model_at_hand_contradicts_is_refused(
    trainer: AsyncClient, queue: Queue, stabilised: Any, copies: bool
) -> None:
    tensors = get_peft_model_state_dict(stabilised)
    if copies:
        tensors = {name: value.to(torch.bfloat16) for name, value in tensors.items()}

    with pytest.raises(AdapterError, match=r"scales them by 4 with use_rslora=True.*pass peft_config="):
        await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    assert manifests(queue) == []
    await trainer.publish_adapter("math", 1, tensors, lora_alpha=8, use_rslora=False)  # who says so knows why


async def test_a_wrong_alpha_is_noticed_and_so_is_what_tensors_cannot_show(trainer: AsyncClient) -> None:
    plain, patterned = trained(lora_alpha=8), trained(lora_alpha=8, alpha_pattern={"q_proj": 64})

    await trainer.publish_adapter("math", 1, get_peft_model_state_dict(plain), lora_alpha=8)
    with pytest.raises(AdapterError, match="scales them by 2, and lora_alpha=16 alone by 4"):
        await trainer.publish_adapter("math", 2, get_peft_model_state_dict(plain), lora_alpha=16)
    with pytest.raises(AdapterError, match=r"cannot be served .*alpha_pattern is not supported"):
        await trainer.publish_adapter("math", 3, get_peft_model_state_dict(patterned), lora_alpha=8)
    with pytest.raises(AdapterError, match="peft_config: alpha_pattern is not supported"):
        await trainer.publish_adapter(
            "math", 3, get_peft_model_state_dict(patterned), peft_config=patterned.peft_config["default"]
        )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"lora_alpha": 8, "use_rslora": "yes"}, "use_rslora 'yes': pass True or False"),
    ({"use_rslora": True}, "lora_alpha None"),
    ({"lora_alpha": 8, "peft_config": {"r": 4}}, "leave lora_alpha= out"),
    ({"peft_config": {"default": LoraConfig(target_modules=["q_proj"])}}, "pass one, as model.peft_config"),
    ({"peft_config": LoraConfig}, "not some type"),
    ({"peft_config": 5}, "not some int"),
    ({"peft_config": {"r": object()}}, "cannot be written as JSON"),
    ({"peft_config": LoraConfig(r=8, target_modules=["q_proj"])}, "not of rank 8"),
    ({"peft_config": LoraConfig(r=4, target_modules=["k_proj"])}, "PEFT would not apply them"),
    ({"peft_config": LoraConfig(r=4, target_modules=".*k_proj")}, "a regular expression for the whole path"),
    ({"peft_config": LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)}, "use_dora is not supported"),
    ({"peft_config": LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")}, "changes the base model"),
    ({"peft_config": LoraConfig(r=4)}, "target_modules must name"),
]


@pytest.mark.parametrize(("given", "says"), WRONG, ids=[says for _, says in WRONG])
async def test_what_is_told_of_tensors_must_make_sense(
    trainer: AsyncClient, queue: Queue, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(AdapterError, match=says):
        await trainer.publish_adapter("math", 1, lora(), **given)
    assert (manifests(queue), blobs(queue)) == ([], [])


async def test_a_folder_and_a_checkpoint_leave_no_room_for_it(trainer: AsyncClient, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", lora())
    ways: list[dict[str, Any]] = [{"lora_alpha": 8}, {"use_rslora": False}, {"peft_config": {}}]
    for given in ways:
        with pytest.raises(AdapterError, match="leave it out"):
            await trainer.publish_adapter("math", 1, folder, **given)
        with pytest.raises(PolicyVersionError, match="leave it out beside checkpoint="):
            await trainer.publish_policy(1, checkpoint=tmp_path, **given)


FOLDERS: list[tuple[dict[str, Any], dict[str, torch.Tensor], str]] = [
    ({"use_dora": True}, lora(), r"adapter_config\.json: use_dora is not supported"),
    ({"rank_pattern": {"q_proj": 4}}, lora(), "rank_pattern is not supported"),
    ({"modules_to_save": ["lm_head"]}, lora(), "modules_to_save is not supported"),
    ({"lora_bias": True}, lora(), "lora_bias is not supported"),
    ({"bias": "all"}, lora(), "bias='all' is not supported"),
    ({"init_lora_weights": "olora"}, lora(), "init_lora_weights='olora' changes the base model"),
    ({"target_modules": ["k_proj"]}, lora(), "PEFT would not apply them"),
    ({"target_modules": r".*\.k_proj"}, lora(), "a regular expression for the whole path"),
    ({"target_modules": "q_proj"}, lora(), "to name modules, use a list"),
    ({"exclude_modules": ".*q_proj"}, lora(), "PEFT would not apply them"),
    ({"lora_alpha": float("inf")}, lora(), "lora_alpha must be a number"),
    ({"r": 16}, lora(), "not of rank 16"),
    ({}, {f"base_model.model.{name}": value for name, value in lora().items()}, "an adapter around another"),
    ({}, {**lora(), "base_model.model.lm_head.base_layer.weight": torch.ones(2, 2)}, "save_embedding_layers=False"),
    ({}, {A: lora()[A], B: torch.full((32, 4), torch.nan)}, "holds NaN or infinity"),
    ({}, {A: lora()[A], B: torch.full((32, 4), torch.inf).bfloat16()}, "holds NaN or infinity"),
]


@pytest.mark.parametrize(("fields", "tensors", "says"), FOLDERS, ids=[says for *_, says in FOLDERS])
@pytest.mark.parametrize("as_policy", [False, True], ids=["an adapter", "a policy"])
async def test_a_folder_that_every_worker_would_refuse_is_not_published(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, fields: dict[str, Any], tensors: Any, says: str, as_policy: bool
) -> None:
    folder = peft_folder(tmp_path / "a", tensors)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    with pytest.raises(AdapterError, match=says):
        await (trainer.publish_policy(1, adapter=folder) if as_policy else trainer.publish_adapter("math", 1, folder))
    assert (manifests(queue), blobs(queue), announced(queue)) == ([], [], [])


async def test_a_folder_with_half_a_pair_is_no_policy_and_else_a_warning(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = peft_folder(tmp_path / "a", {A: lora()[A]})

    with pytest.raises(AdapterError, match="needs both lora_A and lora_B"):
        await trainer.publish_policy(1, adapter=folder)
    assert (manifests(queue), announced(queue)) == ([], [])
    await trainer.publish_adapter("math", 1, folder)
    assert "adapter math@1: every worker will refuse it: module" in caplog.text


WRAPPERS = {
    "around": ("base_model", "module._orig_mod.base_model"),
    "within": ("layers", "_fsdp_wrapped_module.layers"),
}


@pytest.mark.parametrize("as_folder", [False, True], ids=["tensors", "a folder"])
@pytest.mark.parametrize("where", WRAPPERS)
async def test_what_wrappers_add_to_names_is_left_out(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, where: str, as_folder: bool
) -> None:
    tensors = {name.replace(*WRAPPERS[where]): value for name, value in lora().items()}
    assert not tensors.keys() & lora().keys()

    if as_folder:
        await trainer.publish_adapter("math", 1, peft_folder(tmp_path / "a", tensors))
    else:
        await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)

    _, found = read_back(queue, "math@1")
    assert found.keys() == lora().keys()
    assert all(torch.equal(found[name], value) for name, value in lora().items())


async def test_two_tensors_of_one_name_without_wrappers_are_refused(trainer: AsyncClient, queue: Queue) -> None:
    tensors = lora(1) | {f"module.{name}": value for name, value in lora(2).items()}

    with pytest.raises(AdapterError, match="two tensors are both"):
        await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    assert manifests(queue) == []


def test_every_field_that_peft_saves_is_known(tmp_path: Path) -> None:
    """So that a new field of PEFT's config is met here, not by a user."""
    trained(lora_alpha=8).save_pretrained(tmp_path / "a")
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config_problem(saved) is None
