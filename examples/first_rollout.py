"""From a model to the first rollouts, a reward, and new weights: docs/first-rollout.md goes through it.

    python -m examples.first_rollout                       # a tiny model with random weights, written here
    python -m examples.first_rollout --model Qwen3-0.6B    # a folder, as `hf download` makes it

Starts a Redis and a worker on this machine's CPU, and ends them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from rollstream import AsyncClient, Completion, GenerationConfig, GroupError, RolloutBatch, make_probe
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import serving_worker

POLICY, STORE = "first", "redis"
WAIT_S = 120
QUESTIONS = "What is two and two?", "Name a colour.", "Say something short."
CONFIG = GenerationConfig(max_new_tokens=16, num_return_sequences=4, temperature=0.9, seed=1)
TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)
"""A chat template for the tiny model; a model that was downloaded has its own."""


def tiny(folder: Path) -> Path:
    """Write a model with a tokenizer and a chat template, as a download would have them."""
    write_model(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def tokenised(tokenizer: Any) -> list[list[int]]:
    """Each question as a conversation that waits for the assistant's turn."""
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        for chat in chats
    ]


def reward(completion: Completion) -> float:
    """Answers that do not repeat themselves are good ones: the share of ids that are there for the first time.

    A completion has its ids, log-probs, finish reason and versions too.
    """
    return len(set(completion.token_ids)) / max(len(completion), 1)


def train(model: Any, rollouts: RolloutBatch, rewards: torch.Tensor) -> None:
    """One step of REINFORCE, with the mean reward of each prompt as its baseline."""
    per_prompt = rewards.view(len(rollouts), -1)
    advantages = (per_prompt - per_prompt.mean(1, keepdim=True)).flatten()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    read = {"attention_mask": rollouts.attention_mask, "position_ids": rollouts.position_ids}
    logits = model(rollouts.sequences, **read).logits[:, rollouts.prompt_len - 1 : -1]
    log_probs = (logits / CONFIG.temperature).log_softmax(-1)
    chosen = log_probs.gather(-1, rollouts.response_ids[..., None])[..., 0]
    mask = rollouts.response_mask[:, rollouts.prompt_len :]
    loss = -(advantages[:, None] * chosen * mask).sum() / mask.sum()
    loss.backward()
    optimizer.step()


async def run(redis_url: str, folder: Path) -> list[RolloutBatch]:
    """Two batches, the second under the weights that the first one taught."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompts = tokenised(tokenizer)
    async with AsyncClient(redis_url, policy=POLICY, weights=STORE) as client:
        say("sampling with the weights of the folder")
        handle = await client.submit(prompts, None, CONFIG)
        rewards: dict[int, list[float]] = {}
        async for group in handle.groups(timeout=WAIT_S):  # as they finish
            if isinstance(group, GroupError):
                raise SystemExit(f"prompt {group.group} failed: {group.message}")
            rewards[group.group] = [reward(completion) for completion in group.completions]
        first = await handle.result(timeout=WAIT_S)  # all of it, in the order of the prompts
        train(model, first, torch.tensor([one for prompt in sorted(rewards) for one in rewards[prompt]]))

        say("trained one step; publishing version 1, and sampling with it")
        await client.publish_policy(1, model=model, probe=make_probe(model, tokenizer))
        second = await client.generate(prompts, None, CONFIG, min_policy_version=1, timeout=WAIT_S)
    show(tokenizer, first, second)
    return [first, second]


def say(what: str) -> None:
    """Tell on stderr what goes on; stdout has the completions alone."""
    sys.stderr.write(f"{what}\n")


def show(tokenizer: Any, *batches: RolloutBatch) -> None:
    """Print the first completion of each prompt, and which version sampled it."""
    for rollouts in batches:
        for question, one in zip(QUESTIONS, rollouts, strict=True):
            versions = [version for version, _ in one.version_spans[0]]
            sys.stdout.write(f"version {versions} {question} -> {one.decode(tokenizer)[0]!r}\n")


def main() -> None:
    """Start what is needed, make two batches, end everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's folder; without it a tiny one is written")
    given = parser.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="rollstream-first-") as name, EmbeddedRedis() as server:
        folder = given.model or tiny(Path(name) / "model")
        flags = ("--dtype", "float32", "--max-model-len", "512", "--weights", STORE)
        say("starting a worker, which loads the model")
        with serving_worker(server.url, POLICY, folder, Path(name), *flags):
            asyncio.run(run(server.url, folder))


if __name__ == "__main__":
    main()
