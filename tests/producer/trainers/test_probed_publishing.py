"""`PublishPolicy` publishes each version with what the trainer's own model says of a few rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rollstream import Client, Probe, PublishingRefusedError, PublishPolicy, RolloutFunction, make_probe
from rollstream.producer.demo.tiny_model import write_model
from tests.support.faults import Queue
from tests.support.weights.publishing import announced

ARGS = SimpleNamespace(world_size=1, deepspeed=None, fsdp=[])
MAIN = SimpleNamespace(is_world_process_zero=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def probes(client: Client, queue: Queue, folder: Path, told: dict[str, Any], **options: Any) -> list[Probe | None]:
    """Those of two steps."""
    publish = PublishPolicy(RolloutFunction(client), checkpoint_dir=folder, **options)
    publish.on_train_begin(ARGS, MAIN, None, **told)
    publish.on_step_end(ARGS, MAIN, None, **told)
    return [announcement.probe for _, announcement in announced(queue)]


def test_each_version_has_a_probe_of_the_trainers_model(
    client: Client, queue: Queue, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    told = {"model": model, "processing_class": tokenizer}
    assert probes(client, queue, tmp_path, told) == [make_probe(model, tokenizer)] * 2


def test_rows_of_ones_own_need_no_tokenizer(client: Client, queue: Queue, model: Any, tmp_path: Path) -> None:
    rows = [list(range(5, 20)), [8, 9, 10]]
    assert probes(client, queue, tmp_path, {"model": model}, probe=rows) == [make_probe(model, rows)] * 2


def test_it_can_be_turned_off(client: Client, queue: Queue, model: Any, tmp_path: Path) -> None:
    assert probes(client, queue, tmp_path, {"model": model}, probe=False) == [None, None]


def test_a_peft_models_probe_is_that_of_its_adapter(
    client: Client, queue: Queue, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    plain = make_probe(model, tokenizer)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    first, second = probes(client, queue, tmp_path, {"model": adapted, "processing_class": tokenizer})
    assert first == second == make_probe(adapted, tokenizer) != plain


def test_without_a_tokenizer_nothing_is_published_unproven(
    client: Client, queue: Queue, model: Any, tmp_path: Path
) -> None:
    with pytest.raises(PublishingRefusedError, match="has no tokenizer to make a probe: give probe=rows of ids"):
        probes(client, queue, tmp_path, {"model": model})
    assert announced(queue) == []


def test_versions_go_on_from_what_was_announced_and_not_activated(
    client: Client, queue: Queue, model: Any, models: Path, tmp_path: Path
) -> None:
    client.publish_policy(7, checkpoint=models / "step-1", activate="by_hand")
    probes(client, queue, tmp_path, {"model": model}, probe=False)
    assert [entry_id for entry_id, _ in announced(queue)] == ["7-0", "8-0", "9-0"]
