"""On-policy distillation: a tiny student learns from a tiny teacher's likeliest tokens, both served by workers.

The student is its teacher with the last layer's weights lost, as after a pruning.

    python -m examples.distill                                     # 40 steps, one plot
    python -m examples.distill --steps 80 --top-k 32 --seed 1 --out runs

A step samples completions from the student, lets the teacher score them (`client.score`, with the `--top-k` likeliest
tokens of each position), takes gradient steps towards what the teacher would have said there, and publishes the
student's weights as the next policy version. The teacher is nothing special: another policy name, whose workers answer
score jobs instead of prompts. `distill_loss` has the loss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from examples.distill_loss import divergence
from rollstream import AsyncClient, GenerationConfig, RolloutBatch, RolloutFailedError, ScoreBatch, make_probe
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import LAYERS, write_model
from rollstream.producer.demo.worker_process import serving_worker

STUDENT, TEACHER, STORE = "student", "teacher", "redis"
PROMPTS, COMPLETIONS, MAX_NEW_TOKENS = 16, 4, 16
UPDATES, MAX_GRADIENT = 4, 1.0
TIMEOUT_S = 120


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    steps: int
    top_k: int
    seed: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step measured, before its updates."""

    divergence: float
    """Mean KL(teacher || student) of a token in nats, over the teacher's `top_k` and one bin for all others."""
    covered: float
    """How much of the teacher's probability its `top_k` tokens have, on average."""
    tokens: int
    version: int
    """The student's version that sampled."""
    ended_s: float


class Student:
    """The model in training, at policy version `version`."""

    def __init__(self, model: Path, settings: Settings) -> None:
        self.version = 0
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)

    def learn(self, rollouts: RolloutBatch, teacher: ScoreBatch) -> tuple[float, float]:
        """Take `UPDATES` gradient steps; returns the divergence before them and what the teacher's top tokens cover."""
        top_ids, top_log_probs = teacher.top_token_ids, teacher.top_log_probs
        if top_ids is None or top_log_probs is None:
            raise ValueError("the teacher's likeliest tokens are missing: score with top_logprobs")
        first = rollouts.prompt_len
        mask = rollouts.response_mask[:, first:].bool()
        found = []
        for _ in range(UPDATES):
            logits = self.model(
                input_ids=rollouts.sequences,
                attention_mask=rollouts.attention_mask,
                position_ids=rollouts.position_ids,
            ).logits[:, first - 1 : -1]
            loss = divergence(logits[mask], top_ids[mask], top_log_probs[mask])
            found.append(loss.item())
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
            self._optimiser.step()
        self.version += 1
        return found[0], top_log_probs[mask].exp().sum(-1).mean().item()


async def distill(
    student: AsyncClient, teacher: AsyncClient, learner: Student, settings: Settings, show: Callable[[Step], None]
) -> list[Step]:
    """All steps of a run."""
    steps: list[Step] = []
    began = time.monotonic()
    for step in range(settings.steps):
        config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=COMPLETIONS, seed=1000 * settings.seed + step
        )
        version = learner.version
        rollouts = await student.generate(
            draw_prompts(settings.seed, step), None, config, min_policy_version=version, timeout=TIMEOUT_S
        )
        scores = await teacher.score(rollouts, top_logprobs=settings.top_k, timeout=TIMEOUT_S)
        if rollouts.errors or scores.errors:
            raise RolloutFailedError(rollouts.batch_id, PROMPTS, {**rollouts.errors, **scores.errors})
        found, covered = await asyncio.to_thread(learner.learn, rollouts, scores)
        probe = await asyncio.to_thread(make_probe, learner.model, learner.tokenizer)
        await student.publish_policy(learner.version, model=learner.model, probe=probe)
        tokens, ended_s = int(scores.scored_mask.sum()), time.monotonic() - began
        steps.append(Step(divergence=found, covered=covered, tokens=tokens, version=version, ended_s=ended_s))
        show(steps[-1])
    return steps


def draw_prompts(seed: int, step: int) -> torch.Tensor:
    """(PROMPTS, 3) random ids."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randint(20, 60, (PROMPTS, 3), generator=generator)


def write_models(teacher: Path, student: Path, seed: int) -> None:
    """Write both models: the student has other weights in its last layer."""
    write_model(teacher, seed=2 * seed)
    write_model(student, seed=2 * seed + 1)
    last = f"model.layers.{LAYERS - 1}."
    own = load_file(student / "model.safetensors")
    weights = {name: own[name] if name.startswith(last) else weight
               for name, weight in load_file(teacher / "model.safetensors").items()}  # fmt: skip
    save_file(weights, student / "model.safetensors", metadata={"format": "pt"})


async def _run(redis_url: str, model: Path, settings: Settings, console: Console) -> list[Step]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with (
        AsyncClient(redis_url, policy=STUDENT, weights=STORE) as student,
        AsyncClient(redis_url, policy=TEACHER) as teacher,
    ):
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("distilling", total=settings.steps)

            def show(step: Step) -> None:
                bar.update(task, advance=1, description=f"KL {step.divergence:.3f}")

            return await distill(student, teacher, Student(model, settings), settings, show)


def run(settings: Settings, console: Console) -> list[Step]:
    """A run with a worker process for the student and one for the teacher."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-distill-")))
        server = stack.enter_context(EmbeddedRedis())
        console.print("starting two workers with the vLLM engine (30 to 80 s)")
        models = {STUDENT: folder / "student" / "model", TEACHER: folder / "teacher" / "model"}
        write_models(models[TEACHER], models[STUDENT], settings.seed)
        limits = ("--dtype", "float32", "--max-num-seqs", str(PROMPTS * COMPLETIONS))
        for policy, flags in ((STUDENT, ("--weights", STORE)), (TEACHER, ())):
            home = folder / policy
            stack.enter_context(serving_worker(server.url, policy, models[policy], home, *flags, *limits))
        return asyncio.run(_run(server.url, models[STUDENT], settings, console))


def write_plot(steps: Sequence[Step], path: Path) -> Path:
    """Plot the divergence over steps."""
    import matplotlib  # noqa: PLC0415 - a run without a plot needs none

    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([step.divergence for step in steps])
    axes.set(xlabel="step", ylabel="nats a token", title="KL(teacher || student) on the student's own samples", ylim=0)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _settings() -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(prog="distill", description="Distil a tiny teacher into a tiny student.")
    parser.add_argument("--steps", type=_number(int, 1, 10**6), default=40)
    parser.add_argument("--top-k", type=_number(int, 1, 128), default=64, help="of the teacher's tokens a position")
    parser.add_argument("--seed", type=_number(int, 0, 10**6), default=0, help="of weights, prompts and sampling")
    parser.add_argument("--learning-rate", type=_number(float, 0, 1), default=5e-4)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the numbers and the plot")
    flags = parser.parse_args()
    return Settings(flags.steps, flags.top_k, flags.seed, flags.learning_rate), flags.out


def _number(kind: Callable[[str], Any], least: float, most: float) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        if not least <= (value := kind(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return number


def main() -> None:
    """Make the run, then write the numbers and the plot."""
    (settings, out), console = _settings(), Console(stderr=True)
    disable_progress_bar()
    torch.set_num_threads(1)  # the workers have the other core
    out.mkdir(parents=True, exist_ok=True)
    steps = run(settings, console)
    numbers = out / f"distill-seed{settings.seed}.json"
    told = {"settings": asdict(settings), "steps": [asdict(step) for step in steps]}
    numbers.write_text(json.dumps(told, indent=1) + "\n")
    plot = write_plot(steps, out / "distill.png")
    Console().print(
        f"KL(teacher || student) {steps[0].divergence:.3f} to {steps[-1].divergence:.3f} nats a token in "
        f"{len(steps)} steps, {steps[-1].ended_s:.0f} s; the teacher's {settings.top_k} likeliest tokens have "
        f"{steps[-1].covered:.0%} of its probability",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"numbers and plot: {numbers}, {plot}")


if __name__ == "__main__":
    main()
