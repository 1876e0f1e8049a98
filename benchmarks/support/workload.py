"""Workloads: batches of random prompts whose completions all have exactly the length that was asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.support.models import Model
from rollstream.schemas import GenerationConfig


@dataclass(frozen=True)
class Load:
    """One batch."""

    prompts: list[list[int]]
    config: GenerationConfig
    adapter: str | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the batch generates."""
        return len(self.prompts) * self.config.num_return_sequences * self.config.max_new_tokens


@dataclass(frozen=True)
class Workload:
    """Batches that are submitted together; a run is over when all of them are complete."""

    name: str
    about: str
    batches: tuple[Load, ...]
    prompts_per_job: int = 8

    @property
    def tokens(self) -> int:
        """How many tokens a run generates."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def longest(self) -> int:
        """The longest prompt and completion together, in tokens."""
        return max(len(p) + batch.config.max_new_tokens for batch in self.batches for p in batch.prompts)


@dataclass(frozen=True)
class Scale:
    """How much a run generates: for a CPU that does a thousand tokens a second or a GPU that does tens of thousands."""

    tokens: int
    """About how many tokens a run has."""
    short: int
    long: int
    prompt: tuple[int, int]
    """Tokens of the shortest and of the longest prompt."""


SCALES = {
    "tiny": Scale(8_192, 16, 128, (4, 32)),
    "1.5b": Scale(49_152, 32, 256, (32, 256)),
    "7b": Scale(49_152, 32, 256, (32, 256)),
}


SCENARIOS = ("large", "n=1", "short", "long", "no log-probs", "skewed", "many small")
"""Names of `workloads`."""


class Prompts:
    """Random prompts, all different, the same for the same seed."""

    def __init__(self, model: Model, lengths: tuple[int, int], seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lengths = lengths
        self._vocabulary = model.vocabulary

    def draw(self, count: int) -> list[list[int]]:
        """Draw `count` more prompts."""
        return [self._one() for _ in range(count)]

    def _one(self) -> list[int]:
        length = self._random.randint(*self._lengths)
        return [self._random.randrange(10, self._vocabulary - 100) for _ in range(length)]


def config(tokens: int, n: int = 8, *, logprobs: bool = True) -> GenerationConfig:
    """A config with temperature 1, and log-probs as a trainer needs them."""
    return GenerationConfig(
        max_new_tokens=tokens, num_return_sequences=n, ignore_eos=True, logprobs="processed" if logprobs else None
    )


def workloads(model: Model, *, seed: int = 0, scale: float = 1.0) -> dict[str, Workload]:
    """The workloads of the saturation benchmark, by name. `scale` makes runs longer or shorter."""
    size = SCALES[model.name]
    total, middle = int(size.tokens * scale), size.long // 2
    prompts = Prompts(model, size.prompt, seed)

    def batch(tokens: int, n: int, share: float = 1.0, **kw: bool) -> Load:
        return Load(prompts.draw(max(1, int(total * share) // (tokens * n))), config(tokens, n, **kw))

    small = [batch(middle, 8, 1 / 48) for _ in range(48)]
    found = [
        Workload("large", f"one batch, n = 8, {middle} tokens, log-probs", (batch(middle, 8),)),
        Workload("n=1", f"one batch, n = 1, {middle} tokens, log-probs", (batch(middle, 1),)),
        Workload("short", f"one batch, n = 8, {size.short} tokens, log-probs", (batch(size.short, 8, 0.5),)),
        Workload("long", f"one batch, n = 8, {size.long} tokens, log-probs", (batch(size.long, 8),)),
        Workload("no log-probs", f"one batch, n = 8, {middle} tokens", (batch(middle, 8, logprobs=False),)),
        Workload(
            "skewed",
            f"two batches, n = 8: three quarters of the completions have {size.short} tokens, the others {size.long}",
            (batch(size.short, 8, 3 * size.short / (3 * size.short + size.long)),
             batch(size.long, 8, size.long / (3 * size.short + size.long))),
        ),
        Workload("many small", f"48 batches at once, n = 8, {middle} tokens, log-probs", tuple(small), 1),
    ]  # fmt: skip
    return {workload.name: workload for workload in found}


def with_adapter(workload: Workload, adapter: str) -> Workload:
    """The same workload with a LoRA adapter."""
    batches = tuple(Load(batch.prompts, batch.config, adapter) for batch in workload.batches)
    return Workload(f"{workload.name}, LoRA", f"{workload.about}, {adapter}", batches, workload.prompts_per_job)
