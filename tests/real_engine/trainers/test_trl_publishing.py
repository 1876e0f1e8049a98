"""A real GRPOTrainer and a real worker stay together when the trainer's weights are published, and part when not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream import ArgumentError, Client, PublishingRefusedError, PublishPolicy, RolloutFunction
from tests.support.engine.real_workers import START_TIMEOUT_S
from tests.support.worker_process import WorkerProcess

POLICY = "trl-publishing"
STEPS = 6


@dataclass
class Run:
    """What a training run of `STEPS` steps saw."""

    differences: list[float] = field(default_factory=list)
    """For each step the largest |trainer's log-prob - worker's| of a sampled token."""
    versions: list[set[int]] = field(default_factory=list)
    """For each step the policy versions that sampled its completions."""


@pytest.fixture(scope="module")
def worker(redis_url: str, tiny_model: Path, checkpoints: Path) -> Iterator[WorkerProcess]:
    flags = ("--model", str(tiny_model), "--dtype", "float32", "--checkpoint-dir", str(checkpoints))
    worker = WorkerProcess(redis_url, POLICY, *flags, "--max-num-seqs", "32")
    try:
        yield worker
    finally:
        worker.end()


@pytest.fixture(scope="module")
def trl(worker: WorkerProcess) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        # TRL would import vLLM to sample with it, which takes longer than this test.
        patch.setattr(import_module("trl.import_utils"), "is_vllm_available", lambda **_: False)
        yield import_module("trl")


@pytest.fixture(scope="module")
def client(redis_url: str, worker: WorkerProcess, trl: Any) -> Iterator[Client]:
    worker.wait_until_serving(START_TIMEOUT_S)
    with Client(redis_url, policy=POLICY) as client:
        yield client


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trl-checkpoints")


def train(
    trl: Any, model: Path, folder: Path, rollout: RolloutFunction, callbacks: list[Any], steps: int = STEPS
) -> Run:
    run = Run()

    class Trainer(trl.GRPOTrainer):  # type: ignore[misc] # TRL's types are not followed
        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            ids = [inputs[name] for name in ("prompt_ids", "completion_ids")]
            masks = [inputs[name] for name in ("prompt_mask", "completion_mask")]
            torch = import_module("torch")
            with torch.no_grad():
                ours, *_ = self._get_per_token_logps_and_entropies(
                    model, torch.cat(ids, 1), torch.cat(masks, 1), ids[1].shape[1]
                )
            apart = (ours - inputs["sampling_per_token_logps"]).abs()
            run.differences.append(float((apart * masks[1]).max()))
            return super()._compute_loss(model, inputs)

    def reward(completion_ids: list[list[int]], version_spans: list[Any], **_: Any) -> list[float]:
        run.versions.append({version for spans in version_spans for version, _ in spans})
        return [float(sum(token % 2 for token in ids)) for ids in completion_ids]

    args = trl.GRPOConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=6, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True, bf16=False,
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    dataset = import_module("datasets").Dataset.from_dict({"prompt": ["ab", "cde", "f", "gh"] * 4})
    Trainer(
        str(model), reward_funcs=reward, args=args, train_dataset=dataset, rollout_func=rollout, callbacks=callbacks
    ).train()
    return run


@pytest.mark.vllm
@pytest.mark.timeout(400)  # an engine starts, and importing TRL takes 10 s where nothing else runs
def test_published_weights_keep_trainer_and_worker_together_and_unpublished_ones_do_not(
    trl: Any, client: Client, tiny_model: Path, checkpoints: Path, tmp_path: Path
) -> None:
    apart = train(trl, tiny_model, tmp_path, RolloutFunction(client, timeout_s=120), [])
    assert apart.versions == [{0}] * STEPS
    assert max(apart.differences) > 1e-2, "a test that could not fail"

    rollout = RolloutFunction(client, timeout_s=120)
    publish = PublishPolicy(rollout, checkpoint_dir=checkpoints)
    together = train(trl, tiny_model, tmp_path, rollout, [publish])
    assert together.versions == [{version} for version in range(1, STEPS + 1)]
    assert max(together.differences) < 1e-4
    assert (publish.version, rollout.min_policy_version) == (STEPS + 1, STEPS + 1)
    assert sorted(folder.name.partition("-")[0] for folder in checkpoints.iterdir()) == ["v5", "v6", "v7"]

    rollout = RolloutFunction(client, timeout_s=120)
    resumed = train(
        trl,
        tiny_model,
        tmp_path,
        rollout,
        [PublishPolicy(rollout, checkpoint_dir=checkpoints, wait_for="all", wait_s=60)],
        1,
    )
    assert resumed.versions == [{STEPS + 2}], "a second run goes on from the newest version, with its own weights"
    assert max(resumed.differences) < 1e-4


ARGS = SimpleNamespace(world_size=1, deepspeed=None, fsdp=[])
MAIN, OTHER = SimpleNamespace(is_world_process_zero=True), SimpleNamespace(is_world_process_zero=False)


@dataclass
class Saving:
    """All that a callback asks of a model."""

    source: Path

    def save_pretrained(self, folder: Path) -> None:
        shutil.copytree(self.source, folder)


@pytest.fixture
def rollout(redis_url: str, policy: str) -> Iterator[RolloutFunction]:
    """A client of a policy without workers."""
    with Client(redis_url, policy=policy) as client:
        yield RolloutFunction(client)


def test_workers_may_be_behind_by_what_was_asked_for(rollout: RolloutFunction, models: Path, tmp_path: Path) -> None:
    rollout.client.publish_policy(41, checkpoint=models / "step-1")
    publish = PublishPolicy(rollout, checkpoint_dir=tmp_path, keep=2, staleness=2, probe=False)
    versions, oldest = [], []
    for tell in (publish.on_train_begin, *[publish.on_step_end] * 4):
        tell(ARGS, MAIN, None, model=Saving(models / "step-2"))
        versions.append(rollout.client.newest_version())
        oldest.append(rollout.min_policy_version)
    assert versions == [42, 43, 44, 45, 46]
    assert oldest == [42, 42, 42, 43, 44]
    assert sorted(folder.name[:3] for folder in tmp_path.iterdir()) == ["v45", "v46"]


def test_of_a_peft_model_the_trained_adapter_is_published(
    rollout: RolloutFunction, tiny_model: Path, tmp_path: Path
) -> None:
    peft: Any = import_module("peft")
    base = import_module("transformers").AutoModelForCausalLM.from_pretrained(tiny_model)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    model.add_adapter("ref", peft.LoraConfig(r=8, target_modules=["v_proj"]))
    publish = PublishPolicy(rollout, checkpoint_dir=tmp_path, probe=[list(range(5, 22))])
    publish.on_train_begin(ARGS, MAIN, None, model=model)
    publish.on_step_end(ARGS, MAIN, None, model=model)
    assert rollout.client.newest_version() == rollout.min_policy_version == 2
    newest = json.loads((max(tmp_path.iterdir()) / "adapter_config.json").read_text())
    assert (newest["r"], newest["target_modules"]) == (4, ["q_proj"])


def test_only_the_main_process_publishes(rollout: RolloutFunction, models: Path, tmp_path: Path) -> None:
    publish = PublishPolicy(rollout, checkpoint_dir=tmp_path)
    publish.on_train_begin(ARGS, OTHER, None, model=Saving(models / "step-1"))
    publish.on_step_end(ARGS, OTHER, None, model=Saving(models / "step-1"))
    assert rollout.client.newest_version() == 0
    assert rollout.min_policy_version == publish.version == 2


@pytest.mark.parametrize(
    ("changes", "model", "what"),
    [
        ({"deepspeed": {"zero": 3}}, SimpleNamespace(), "deepspeed"),
        ({"fsdp": ["full_shard"]}, SimpleNamespace(), "fsdp"),
        ({}, SimpleNamespace(peft_config={"ref": 1}), "SimpleNamespace"),
    ],
)
def test_weights_that_are_not_whole_in_one_process_are_refused(
    rollout: RolloutFunction, tmp_path: Path, changes: dict[str, Any], model: Any, what: str
) -> None:
    with pytest.raises(PublishingRefusedError) as refused:
        PublishPolicy(rollout, checkpoint_dir=tmp_path).on_train_begin(
            SimpleNamespace(**vars(ARGS) | changes), MAIN, None, model=model
        )
    assert (refused.value.what, rollout.client.newest_version()) == (what, 0)


@pytest.mark.parametrize(("name", "value"), [("keep", 1), ("keep", 2.5), ("staleness", -1), ("staleness", True)])
def test_numbers_that_make_no_sense_are_refused(
    rollout: RolloutFunction, tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(ArgumentError, match=name):
        PublishPolicy(rollout, checkpoint_dir=tmp_path, **{name: value})
