"""What a run of `grpo_async` learns and how: the task, the loss, and the model in training.

The task: a prompt ends in a token of one of four kinds, and the reward of a completion is the number of its tokens t
with t % 4 == kind, divided by `MAX_NEW_TOKENS`. A model with random weights gets 0.25, one that has learnt it 1.

A step trains on one batch in `MINIBATCHES` updates. In async mode the batch is off-policy for two reasons: its worker
had older weights, and each update moves away from the weights at the step's start. The loss handles the two separately
(decoupled PPO: AReaL, https://arxiv.org/abs/2505.24298, section 5.2):

    behaviour    the weights that sampled a token, known by the log-probs that came with it
    proximal     the trainer's weights at the start of the step: ratios to it are clipped, as in PPO
    weight       proximal / behaviour, truncated at `CAP` (truncated importance sampling, TIS:
                 https://fengyao.notion.site/off-policy-rl)

`--no-correction` sets the weight to 1.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.grpo_report import Step
from examples.grpo_settings import Settings
from rollstream import RolloutBatch

KINDS, FIRST_KIND_TOKEN = 4, 10
PROMPTS, COMPLETIONS, MAX_NEW_TOKENS = 16, 8, 12
SAMPLES = PROMPTS * COMPLETIONS
MINIBATCHES, MAX_GRADIENT = 4, 1.0
CLIP, CAP = 0.2, 2.0


def draw_prompts(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kinds (PROMPTS,) and prompts (PROMPTS, 3): two random tokens, then one that tells the kind."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    kinds = torch.randint(KINDS, (PROMPTS,), generator=generator)
    noise = torch.randint(20, 60, (PROMPTS, 2), generator=generator)
    return kinds, torch.cat([noise, FIRST_KIND_TOKEN + kinds[:, None]], dim=1)


def rewards(rollouts: RolloutBatch, kinds: torch.Tensor) -> torch.Tensor:
    """(R,): tokens of the prompt's kind divided by `MAX_NEW_TOKENS`, so that a short completion gains nothing."""
    wanted = kinds.repeat_interleave(COMPLETIONS)[:, None]
    responses = rollouts.sequences[:, rollouts.prompt_len :]
    mask = rollouts.response_mask[:, rollouts.prompt_len :]
    return ((responses % KINDS == wanted) * mask).sum(dim=1) / MAX_NEW_TOKENS


def advantages(reward: torch.Tensor) -> torch.Tensor:
    """GRPO (https://arxiv.org/abs/2402.03300): a reward, normalised over the completions of its prompt; (R,)."""
    groups = reward.view(-1, COMPLETIONS)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(-1)


def truncated_weight(proximal: torch.Tensor, behaviour: torch.Tensor) -> torch.Tensor:
    """How much likelier a token is under `proximal` than under `behaviour`, at most `CAP`; both are log-probs."""
    return torch.exp(proximal - behaviour).clamp(max=CAP)


def decoupled_loss(
    current: torch.Tensor, proximal: torch.Tensor, weight: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """PPO's clipped loss around `proximal`, each token times `weight`; log-probs and mask (R, L), advantage (R,)."""
    ratio, advantage = torch.exp(current - proximal), advantage[:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return -(weight * gain * mask).sum() / mask.sum()


def token_versions(rollouts: RolloutBatch) -> torch.Tensor:
    """(R, L): the policy version that sampled each token, by the spans; -1 for padding."""
    versions = torch.full((rollouts.num_rows, rollouts.response_len), -1)
    for row, spans in zip(versions, rollouts.version_spans, strict=True):
        sampled = torch.tensor([version for version, tokens in spans for _ in range(tokens)])
        row[: len(sampled)] = sampled
    return versions


class Learner:
    """The model in training, at policy version `version`, and older weights with which workers may still sample."""

    def __init__(self, model: Path, settings: Settings, version: int = 0) -> None:
        self.version = version
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._settings = settings
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self._shuffle = torch.Generator().manual_seed(settings.seed)
        self._past = {version: copy.deepcopy(self.model.state_dict())}

    def save(self, path: Path, steps: list[Step]) -> Path:
        """Everything that the next step needs, and what was measured, in one file. It is whole or not there."""
        state = {
            "version": self.version,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "shuffle": self._shuffle.get_state(),
            "past": self._past,
            "steps": [asdict(step) for step in steps],
        }
        torch.save(state, path.with_suffix(".part"))
        return path.with_suffix(".part").rename(path)

    def restore(self, path: Path) -> list[Step]:
        """Go on from such a file; returns what was measured until then."""
        state = torch.load(path, weights_only=True)
        self.version, self._past = state["version"], state["past"]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._shuffle.set_state(state["shuffle"])
        return [Step(**step) for step in state["steps"]]

    def train(self, rollouts: RolloutBatch, kinds: torch.Tensor) -> Step:
        """Make all updates of one step, which ends in the next version."""
        mask = rollouts.response_mask[:, rollouts.prompt_len :].float()
        reward = rewards(rollouts, kinds)
        behaviour, proximal = _behaviour(rollouts), self._under(self.version, rollouts)
        weight = truncated_weight(proximal, behaviour) * mask if self._settings.correction else mask
        step = Step(
            reward.mean().item(),
            tokens=int(mask.sum()),
            mean_weight=(weight.sum() / mask.sum()).item(),
            truncated=((weight == CAP).sum() / mask.sum()).item(),
        )
        self._compare(step, rollouts, proximal)
        advantage = advantages(reward)
        for rows in torch.randperm(rollouts.num_rows, generator=self._shuffle).chunk(MINIBATCHES):
            current = self._log_probs(self.model, rollouts, rows)
            self._update(decoupled_loss(current, proximal[rows], weight[rows], advantage[rows], mask[rows]))
        self._past.pop(self.version - self._settings.max_staleness, None)
        self.version += 1
        self._past[self.version] = copy.deepcopy(self.model.state_dict())
        return step

    def _update(self, loss: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        self._optimiser.step()

    def _compare(self, step: Step, rollouts: RolloutBatch, proximal: torch.Tensor) -> None:
        """Compare the worker's log-probs with ours, under the current weights and under those that the spans name."""
        versions, ours = token_versions(rollouts), torch.zeros_like(proximal)
        for sampler in sorted({version for spans in rollouts.version_spans for version, _ in spans}):
            of_it = versions == sampler
            ours[of_it] = (proximal if sampler == self.version else self._under(sampler, rollouts))[of_it]
            step.tokens_by_version[sampler] = int(of_it.sum())
        difference = (ours - _behaviour(rollouts)).abs()
        swapped = torch.tensor([len(spans) > 1 for spans in rollouts.version_spans])[:, None]

        def over(tokens: torch.Tensor) -> tuple[float, int]:
            return difference[tokens].sum().item(), int(tokens.sum())

        step.completions_swapped = int(swapped.sum())
        step.difference_current = over(versions == self.version)
        step.difference_by_spans = over(versions >= 0)
        step.difference_swapped = over((versions >= 0) & swapped)

    def _under(self, version: int, rollouts: RolloutBatch) -> torch.Tensor:
        """(R, L) log-probs under the weights of `version`."""

        def model(**inputs: torch.Tensor) -> Any:
            return torch.func.functional_call(self.model, self._past[version], kwargs=inputs)

        with torch.no_grad():
            return self._log_probs(model, rollouts, torch.arange(rollouts.num_rows))

    @staticmethod
    def _log_probs(model: Any, rollouts: RolloutBatch, rows: torch.Tensor) -> torch.Tensor:
        """(rows, L): the log-prob of each sampled token at temperature 1, as the worker sampled."""
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
