"""The documented trainer of a LoRA policy and stub workers, of which one is killed and one comes late."""

from __future__ import annotations

import re
from pathlib import Path

from peft import LoraConfig, get_peft_model
from torch.optim import SGD
from transformers import AutoModelForCausalLM

from rollstream import Client, GenerationConfig
from tests.support.worker_process import ROOT, running_worker


def sampled_by(client: Client) -> set[int]:
    rollouts = client.generate([[5, 6, 7]] * 3, None, GenerationConfig(max_new_tokens=4), timeout=60)
    return {version for spans in rollouts.version_spans for version, _ in spans}


def test_workers_serve_what_the_documented_program_trained(
    redis_url: str, client: Client, policy: str, tiny_model: Path, tmp_path: Path
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "def train_lora" in block]
    names: dict[str, object] = {}
    exec(compile(program.replace("math-lora", policy), "docs/trainers.md", "exec"), names)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    (tmp_path / "store").mkdir()
    cache = ("--weights-cache", str(tmp_path / "cache"))
    flags = ("--engine", "stub", "--stub-vocab-size", "512", "--model", str(tiny_model), "--lora")
    train_lora = names["train_lora"]
    assert callable(train_lora)

    with running_worker(redis_url, policy, *flags, *cache, "--weights", str(tmp_path / "store")) as first:
        train_lora(redis_url, str(tmp_path / "store"), model, SGD(model.parameters(), lr=0.1))
        assert sampled_by(client) == {3}
        first.end()
    with running_worker(redis_url, policy, *flags, *cache, "--weights", str(tmp_path / "store")):
        client.wait_for_version(3, workers=1, timeout=60)
        assert sampled_by(client) == {3}
        assert len([*(tmp_path / "cache").iterdir()]) == 1, "what the killed worker left is still there"
