"""GRPO whose completions come from another process: a tiny model learns while a vLLM worker samples.

    python -m examples.grpo_async                                  # sync and async, the same seed, one plot
    python -m examples.grpo_async --mode async --max-staleness 4 --steps 60 --seed 1 --out runs

The task: a prompt ends in a token of one of four kinds, and the reward of a completion is the number of its tokens t
with t % 4 == kind, divided by `MAX_NEW_TOKENS`. A model with random weights gets 0.25, one that has learnt it 1.

A step trains on one batch in `MINIBATCHES` updates, then publishes the weights as the next policy version. In sync mode
the next batch is sampled after that. In async mode up to `--max-staleness` batches are sampled meanwhile; such a batch
is off-policy twice: its worker had older weights, and each update moves away from the weights at the step's start. The
loss keeps these apart (decoupled PPO: AReaL, https://arxiv.org/abs/2505.24298, section 5.2):

    behaviour    what sampled a token, by the log-probs that came with it
    proximal     the trainer's weights at the start of the step: ratios to it are clipped, as in PPO
    weight       proximal / behaviour, truncated at `CAP` (truncated importance sampling, TIS:
                 https://fengyao.notion.site/off-policy-rl)

`--no-correction` sets the weight to 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from examples.grpo_report import Settings, Step, print_summary, progress, summary, write_plot
from producer import AsyncClient, BatchHandle, GenerationConfig, RolloutBatch, RolloutFailedError, StalenessGate
from producer.demo_worker import serving_worker
from producer.embedded import EmbeddedRedis
from producer.tiny_model import write_model

KINDS, FIRST_KIND_TOKEN = 4, 10
PROMPTS, COMPLETIONS, MAX_NEW_TOKENS = 16, 8, 12
SAMPLES = PROMPTS * COMPLETIONS
MINIBATCHES, LEARNING_RATE, MAX_GRADIENT = 4, 3e-3, 1.0
CLIP, CAP = 0.2, 2.0
BATCH_TIMEOUT_S = 120


@dataclass(frozen=True)
class Sampled:
    """A batch under way, and the policy version at which the gate admitted it."""

    admitted: int
    kinds: torch.Tensor
    handle: BatchHandle


def draw_prompts(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kinds (PROMPTS,) and prompts (PROMPTS, 3): two tokens that mean nothing, then one that says the kind."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    kinds = torch.randint(KINDS, (PROMPTS,), generator=generator)
    noise = torch.randint(20, 60, (PROMPTS, 2), generator=generator)
    return kinds, torch.cat([noise, FIRST_KIND_TOKEN + kinds[:, None]], dim=1)


def rewards(rollouts: RolloutBatch, kinds: torch.Tensor) -> torch.Tensor:
    """(R,): tokens of the prompt's kind, as a share of the most there can be: a short completion gains nothing."""
    wanted = kinds.repeat_interleave(COMPLETIONS)[:, None]
    responses = rollouts.sequences[:, rollouts.prompt_len :]
    mask = rollouts.response_mask[:, rollouts.prompt_len :]
    return ((responses % KINDS == wanted) * mask).sum(dim=1) / MAX_NEW_TOKENS


def advantages(reward: torch.Tensor) -> torch.Tensor:
    """GRPO (https://arxiv.org/abs/2402.03300): a reward, normalised over the completions of its prompt; (R,)."""
    groups = reward.view(-1, COMPLETIONS)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(-1)


def truncated_weight(proximal: torch.Tensor, behaviour: torch.Tensor) -> torch.Tensor:
    """How much more likely a token was under `proximal` than under what sampled it, at most `CAP`; from log-probs."""
    return torch.exp(proximal - behaviour).clamp(max=CAP)


def decoupled_loss(
    current: torch.Tensor, proximal: torch.Tensor, weight: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """PPO's clipped loss around `proximal`, each token times `weight`; log-probs and mask (R, L), advantage (R,)."""
    ratio, advantage = torch.exp(current - proximal), advantage[:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return -(weight * gain * mask).sum() / mask.sum()


def token_versions(rollouts: RolloutBatch) -> torch.Tensor:
    """(R, L): the policy version that sampled each token, by the spans; -1 where none did."""
    versions = torch.full((len(rollouts), rollouts.response_len), -1)
    for row, spans in zip(versions, rollouts.version_spans, strict=True):
        sampled = torch.tensor([version for version, tokens in spans for _ in range(tokens)])
        row[: len(sampled)] = sampled
    return versions


class Learner:
    """The model in training, and the weights of versions that may still be sampled with."""

    def __init__(self, model: Path, settings: Settings) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._settings = settings
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self._shuffle = torch.Generator().manual_seed(settings.seed)
        self._past = {0: copy.deepcopy(self.model.state_dict())}

    def train(self, rollouts: RolloutBatch, kinds: torch.Tensor, version: int) -> Step:
        """All updates of the step that starts from `version` and ends in the next."""
        mask = rollouts.response_mask[:, rollouts.prompt_len :].float()
        reward = rewards(rollouts, kinds)
        behaviour, proximal = _behaviour(rollouts), self._under(version, rollouts)
        weight = truncated_weight(proximal, behaviour) * mask
        step = Step(
            reward.mean().item(),
            tokens=int(mask.sum()),
            mean_weight=(weight.sum() / mask.sum()).item(),
            truncated=((weight == CAP).sum() / mask.sum()).item(),
        )
        self._compare(step, rollouts, proximal, version)
        advantage = advantages(reward)
        weight = weight if self._settings.correction else mask
        for rows in torch.randperm(len(rollouts), generator=self._shuffle).chunk(MINIBATCHES):
            current = self._log_probs(self.model, rollouts, rows)
            self._update(decoupled_loss(current, proximal[rows], weight[rows], advantage[rows], mask[rows]))
        self._past[version + 1] = copy.deepcopy(self.model.state_dict())
        self._past.pop(version - self._settings.max_staleness, None)
        return step

    def _update(self, loss: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        self._optimiser.step()

    def _compare(self, step: Step, rollouts: RolloutBatch, proximal: torch.Tensor, version: int) -> None:
        """The worker's log-probs against ours: under the current weights, and under those that the spans name."""
        versions = token_versions(rollouts)
        for sampler in sorted({version for spans in rollouts.version_spans for version, _ in spans}):
            ours = proximal if sampler == version else self._under(sampler, rollouts)
            of_it = versions == sampler
            sum_, tokens = (ours - _behaviour(rollouts)).abs()[of_it].sum().item(), int(of_it.sum())
            step.tokens_by_version[sampler] = tokens
            step.difference_own = step.difference_own[0] + sum_, step.difference_own[1] + tokens
            if sampler == version:
                step.difference_current = sum_, tokens

    def _under(self, version: int, rollouts: RolloutBatch) -> torch.Tensor:
        """(R, L) log-probs under the weights of `version`."""

        def model(**inputs: torch.Tensor) -> Any:
            return torch.func.functional_call(self.model, self._past[version], kwargs=inputs)

        with torch.no_grad():
            return self._log_probs(model, rollouts, torch.arange(len(rollouts)))

    @staticmethod
    def _log_probs(model: Any, rollouts: RolloutBatch, rows: torch.Tensor) -> torch.Tensor:
        """(rows, L): the log-prob of each sampled token at temperature 1, which is what the worker sampled at."""
        ids = rollouts.sequences[rows]
        logits = model(
            input_ids=ids, attention_mask=rollouts.attention_mask[rows], position_ids=rollouts.position_ids[rows]
        ).logits
        first = rollouts.prompt_len
        sampled: torch.Tensor = logits[:, first - 1 : -1].log_softmax(-1).gather(-1, ids[:, first:, None])
        return sampled.squeeze(-1)


def _behaviour(rollouts: RolloutBatch) -> torch.Tensor:
    """(R, L): the worker's log-probs."""
    if rollouts.old_log_probs is None:
        raise ValueError("the correction needs log-probs: leave GenerationConfig.logprobs as it is")
    return rollouts.old_log_probs


async def submit_all(
    client: AsyncClient, gate: StalenessGate, settings: Settings, under_way: asyncio.Queue[Sampled]
) -> None:
    """One batch a step, each as soon as the gate lets it pass."""
    for step in range(settings.steps):
        version = await gate.admit(SAMPLES)
        kinds, prompts = draw_prompts(settings.seed, step)
        config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=COMPLETIONS, seed=1000 * settings.seed + step
        )
        handle = await client.submit(prompts, None, config, prompts_per_job=4, min_policy_version=version)
        await under_way.put(Sampled(version, kinds, handle))


async def publish(client: AsyncClient, learner: Learner, version: int, folder: Path) -> None:
    """Workers read the folder while we go on, so it stays until the version after the next is out."""
    await asyncio.to_thread(learner.model.save_pretrained, folder / f"v{version}")
    await client.publish_policy(version, checkpoint=folder / f"v{version}")
    shutil.rmtree(folder / f"v{version - 2}", ignore_errors=True)


async def train(client: AsyncClient, learner: Learner, settings: Settings, checkpoints: Path) -> dict[str, Any]:
    """The run as JSON has it."""
    gate = StalenessGate(SAMPLES, settings.max_staleness)
    under_way: asyncio.Queue[Sampled] = asyncio.Queue()
    steps: list[Step] = []
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(submit_all(client, gate, settings, under_way))
        with progress(settings.name, settings.steps) as show:
            for version in range(settings.steps):
                waiting_since = time.monotonic()
                batch = await under_way.get()
                rollouts = await batch.handle.result(BATCH_TIMEOUT_S)
                idle_s = time.monotonic() - waiting_since
                if rollouts.errors:
                    raise RolloutFailedError(rollouts.batch_id, PROMPTS, rollouts.errors)
                gate.consumed(SAMPLES, batch.admitted, [spans[0][0] for spans in rollouts.version_spans])
                await asyncio.sleep(settings.reward_latency_s)
                step = await asyncio.to_thread(learner.train, rollouts, batch.kinds, version)
                await publish(client, learner, version + 1, checkpoints)
                gate.advance(version + 1)
                step.idle_s, step.ended_s = idle_s, time.monotonic() - began
                steps.append(step)
                show(step)
    return summary(settings, steps, gate)


@contextlib.contextmanager
def worker(redis_url: str, settings: Settings, model: Path, folder: Path) -> Iterator[Path]:
    """A worker process of this run's policy; gives the folder below which it finds checkpoints."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    flags = ("--checkpoint-dir", str(checkpoints), "--dtype", "float32", "--max-num-seqs", str(SAMPLES))
    with serving_worker(redis_url, settings.name, model, folder, *flags):
        yield checkpoints


def run(settings: Settings, redis_url: str, console: Console) -> dict[str, Any]:
    """One run with a model, a queue and a worker of its own."""
    with tempfile.TemporaryDirectory(prefix="rollstream-example-") as name:
        folder = Path(name)
        model = write_model(folder / "model", seed=settings.seed)
        console.print(f"{settings.name}: starting a worker with the vLLM engine (20 to 40 s)")
        with worker(redis_url, settings, model, folder) as checkpoints:

            async def connected() -> dict[str, Any]:
                async with AsyncClient(redis_url, policy=settings.name) as client:
                    return await train(client, Learner(model, settings), settings, checkpoints)

            return asyncio.run(connected())


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="grpo_async", description="GRPO with rollouts from a worker process.")
    parser.add_argument("--mode", choices=("compare", "sync", "async"), default="compare", help="compare: both")
    parser.add_argument("--max-staleness", type=int, default=1, help="most versions late, in async mode")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, the prompts and the sampling")
    parser.add_argument("--no-correction", action="store_true", help="treat all rollouts as on-policy")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--reward-latency-s", type=float, default=0, help="sleep so long a step: a slow reward model")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the numbers and the plot")
    return parser.parse_args()


def main() -> None:
    """One run, or one of each mode; then the table and the plot."""
    flags, console = _flags(), Console(stderr=True)
    disable_progress_bar()  # one a checkpoint
    torch.set_num_threads(1)  # the worker has the other core
    modes = ("sync", "async") if flags.mode == "compare" else (flags.mode,)
    flags.out.mkdir(parents=True, exist_ok=True)
    results = []
    with EmbeddedRedis() as server:
        for mode in modes:
            settings = Settings(
                mode,
                flags.max_staleness if mode == "async" else 0,
                flags.steps,
                flags.seed,
                not flags.no_correction,
                flags.learning_rate,
                flags.reward_latency_s,
            )
            results.append(run(settings, server.url, console))
            (flags.out / f"{settings.name}.json").write_text(json.dumps(results[-1], indent=1) + "\n")
    print_summary(Console(), results)
    plot = write_plot(results, flags.out / "grpo.png")
    console.print(f"numbers and plot: {flags.out}/*.json, {plot}")


if __name__ == "__main__":
    main()
