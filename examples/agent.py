"""An agent with a tool, on a fleet that loses a worker, and a step of GRPO on exactly what was sampled.

    python -m examples.agent                                       # ten turns in each of four conversations
    python -m examples.agent --conversations 8 --questions 3 --seed 1

A tiny model is taught to call a calculator (`agent_model`), two workers serve it on real engines, and `rollstream
gateway` makes an OpenAI endpoint of them. The agent is an ordinary loop around the `openai` package: it asks, runs the
tool that the model calls, tells it what the tool said, and asks on. In the midst of it one worker is killed by SIGKILL,
and nobody notices. Then the trainer reads the same conversations as trajectories, holds them to what the gateway gave
the agent, token for token, and learns from them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from openai import AsyncOpenAI
from rich.console import Console
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from examples.agent_model import TOOLS, question, write_agent_model
from rollstream import AsyncClient, Trajectory, TrajectoryBatch, stack
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.worker_process import serving_worker

POLICY = "agent"
MAX_TOKENS = 48
CLIP, RATE = 0.2, 1e-3
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    conversations: int
    questions: int
    seed: int
    lessons: int


@dataclass
class Told:
    """What one conversation gave the agent."""

    session: str
    prompts: list[list[int]] = field(default_factory=list)
    """The whole prompt of each turn, as the gateway said it."""
    replies: list[list[int]] = field(default_factory=list)
    cached: int = 0
    """How many ids of the prompts were in a worker's prefix cache."""
    reward: float = 0.0


async def converse(
    client: AsyncOpenAI, session: str, pairs: Sequence[tuple[int, int]], turn_done: Callable[[], None]
) -> Told:
    """Ask all questions in one conversation; the reward is how near the model's calls came to them, from 0 to 1."""
    told, messages, near = Told(session), list[dict[str, Any]](), 0.0
    for a, b in pairs:
        messages.append({"role": "user", "content": question(a, b)})
        message = await _turn(client, told, messages)
        turn_done()
        called = _run_tools(messages, message)
        near += nearness(called[0], a, b) if called else 0.0
        if not called:
            messages.append({"role": "user", "content": "call the tool"})
        _run_tools(messages, await _turn(client, told, messages))
        turn_done()
    told.reward = near / len(pairs)
    return told


def nearness(arguments: dict[str, Any], a: int, b: int) -> float:
    """1 for the numbers that were asked for, less the further off they are, 0 from nine on or where one is missing."""
    given: list[Any] = [arguments.get("a"), arguments.get("b")]
    if not all(type(one) is int for one in given):
        return 0.0
    off: int = sum(min(abs(one - asked), 9) for one, asked in zip(given, (a, b), strict=True))
    return 1 - off / 18


async def _turn(client: AsyncOpenAI, told: Told, messages: list[dict[str, Any]]) -> Any:
    """One reply of the model, which is added to the messages. Sent again, it is the same reply: see the key."""
    answer: Any = await client.chat.completions.create(
        model=POLICY,
        messages=messages,  # type: ignore[arg-type] # dicts of the form that the API has
        tools=TOOLS,  # type: ignore[arg-type]
        max_completion_tokens=MAX_TOKENS,
        logprobs=True,
        extra_headers={"X-Rollstream-Session": told.session, "Idempotency-Key": f"turn-{len(told.replies)}"},
        extra_body={"return_token_ids": True},
    )
    choice = answer.choices[0]
    told.prompts.append(list(answer.prompt_token_ids))
    told.replies.append(list(choice.token_ids))
    told.cached += getattr(answer.usage.prompt_tokens_details, "cached_tokens", None) or 0
    messages.append(choice.message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
    return choice.message


def _run_tools(messages: list[dict[str, Any]], message: Any) -> list[dict[str, Any]]:
    """Add what the tool says to each call of a reply; returns what each asked for."""
    asked: list[dict[str, Any]] = []
    for call in message.tool_calls or []:
        arguments, result = _run_tool(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        asked.append(arguments)
    return asked


def _run_tool(text: str) -> tuple[dict[str, Any], str]:
    """What a call of `add` asked for, and what the tool says to it."""
    try:
        arguments = json.loads(text)
        return arguments, str(int(arguments["a"]) + int(arguments["b"]))
    except (ValueError, TypeError, KeyError) as error:
        return {}, f"error: {type(error).__name__}"


def check(told: Told, trajectory: Trajectory) -> None:
    """The trajectory is what the agent saw, token for token. Raises `ValueError`."""
    ids = trajectory.input_ids.tolist()
    if len(trajectory.turns) != len(told.replies):
        raise ValueError(f"{told.session}: {len(trajectory.turns)} turns, the agent had {len(told.replies)}")
    for turn, prompt, reply in zip(trajectory.turns, told.prompts, told.replies, strict=True):
        if ids[: turn.response_start] != prompt or ids[turn.response_start : turn.end] != reply:
            raise ValueError(f"{told.session}: turn {turn.request_id} is not what was sampled")
    sampled = trajectory.input_ids[trajectory.response_mask == 1].tolist()
    if sampled != [one for reply in told.replies for one in reply]:
        raise ValueError(f"{told.session}: the mask is not that of what was sampled")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of GRPO measured."""

    loss: float
    difference: float
    """The largest difference of a sampled id's log-prob between trainer and worker, before the step."""
    gained: float
    """Mean of advantage times what the log-prob of a conversation gained: above 0 the step did what it should."""


def learn(model: Any, batch: TrajectoryBatch, rewards: Sequence[float]) -> Step:
    """One step of GRPO on whole conversations. What the user and the tool said has no part in the loss."""
    mask, old = batch.response_mask[:, 1:], batch.old_log_probs
    if old is None:
        raise ValueError("the turns have no log-probs")
    given = torch.tensor(rewards)
    advantages = (given - given.mean()) / (given.std() + 1e-6)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    new = log_probs(model, batch)
    ratio = (new - old[:, 1:]).exp()
    gains = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[:, None])
    loss = -(gains * mask).sum() / mask.sum()
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    with torch.no_grad():
        gained = ((log_probs(model, batch) - new) * mask).sum(-1) * advantages
    difference = ((new - old[:, 1:]).abs() * mask).max()
    return Step(loss=loss.item(), difference=difference.item(), gained=gained.mean().item())


def log_probs(model: Any, batch: TrajectoryBatch) -> torch.Tensor:
    """(N, W - 1): the log-prob of each id after the first."""
    out = model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    return out.logits[:, :-1].log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]  # type: ignore[no-any-return]


@contextmanager
def gateway(redis_url: str, tokenizer: Path) -> Iterator[str]:
    """`rollstream gateway` in a process of its own; its base URL."""
    command = [sys.executable, "-m", "rollstream", "gateway", "--policy", POLICY, "--redis", redis_url]
    process = subprocess.Popen(
        [*command, "--tokenizer", str(tokenizer), "--port", "auto"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield (process.stdout.readline() if process.stdout else "").strip()
    finally:
        process.terminate()
        process.wait()


async def talk(base_url: str, settings: Settings, after_half: Callable[[], None]) -> list[Told]:
    """All conversations, side by side; `after_half` is called once half of their turns are done."""
    numbers = random.Random(settings.seed)
    pairs = [(numbers.randrange(10), numbers.randrange(10)) for _ in range(settings.questions)]
    left = settings.conversations * settings.questions  # half of the turns

    def turn_done() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            after_half()

    async with AsyncOpenAI(base_url=base_url, api_key="none", timeout=TIMEOUT_S, max_retries=3) as client:
        sessions = (f"talk-{number}" for number in range(settings.conversations))
        return await asyncio.gather(*(converse(client, session, pairs, turn_done) for session in sessions))


async def read(redis_url: str, told: Sequence[Told]) -> list[Trajectory]:
    """The conversations as the trainer sees them, each held to what the agent was told."""
    async with AsyncClient(redis_url, policy=POLICY) as client:
        trajectories = [await client.session(one.session).trajectory() for one in told]
    for one, trajectory in zip(told, trajectories, strict=True):
        check(one, trajectory)
    return trajectories


def run(settings: Settings, console: Console) -> None:
    """The whole example; it leaves nothing behind."""
    with ExitStack() as block:
        folder = Path(block.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-agent-")))
        server = block.enter_context(EmbeddedRedis())
        console.print(f"teaching a tiny model to call a tool: {settings.lessons} lessons (10 to 60 s)")
        model = write_agent_model(folder / "model", seed=settings.seed, lessons=settings.lessons)
        console.print("starting two workers with the vLLM engine (30 to 120 s)")
        workers = []
        for number in range(2):
            home = folder / f"worker-{number}"
            home.mkdir()
            flags = ("--dtype", "float32", "--max-num-seqs", "16", "--lease-s", "3")
            workers.append(block.enter_context(serving_worker(server.url, POLICY, model, home, *flags, beside=number)))

        def kill() -> None:
            workers[0].kill()
            console.print("one worker was killed by SIGKILL")

        base_url = block.enter_context(gateway(server.url, model))
        told = asyncio.run(talk(base_url, settings, kill))
        trajectories = asyncio.run(read(server.url, told))
        report(told, trajectories, model)


def report(told: Sequence[Told], trajectories: Sequence[Trajectory], model: Path) -> None:
    """Print what was found, and take the step."""
    console, turns = Console(highlight=False, soft_wrap=True), [len(one.turns) for one in trajectories]
    sampled = sum(int(one.response_mask.sum()) for one in trajectories)
    prompts = sum(len(prompt) for one in told for prompt in one.prompts)
    console.print(
        f"{len(told)} conversations of {min(turns)} to {max(turns)} turns: {sum(map(len, trajectories))} ids, of which "
        f"{sampled} were sampled; each trajectory is what the agent was given, token for token"
    )
    cached = sum(one.cached for one in told)
    console.print(f"prefix cache: {cached} of {prompts} prompt ids ({cached / prompts:.0%}) were there already")
    rewards = [one.reward for one in told]
    console.print(f"rewards, by conversation: {', '.join(f'{one:.3f}' for one in rewards)}")
    learner = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    step = learn(learner, stack(trajectories), rewards)
    console.print(
        f"one step of GRPO: loss {step.loss:+.4f}; trainer and worker differ by at most {step.difference:.1e} nats on "
        f"a sampled id; advantage times gained log-prob {step.gained:+.3f}"
    )


def _settings() -> Settings:
    parser = argparse.ArgumentParser(prog="agent", description="An agent with a tool on a fleet that loses a worker.")
    parser.add_argument("--conversations", type=_number(2, 64), default=4, help="one group of GRPO")
    parser.add_argument("--questions", type=_number(1, 10), default=5, help="two turns each: the call, and the answer")
    parser.add_argument("--seed", type=_number(0, 10**6), default=0, help="of the model, its lessons and the questions")
    parser.add_argument("--lessons", type=_number(1, 10**4), default=120, help="steps in which the model is taught")
    flags = parser.parse_args()
    return Settings(flags.conversations, flags.questions, flags.seed, flags.lessons)


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= (value := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return number


def main() -> None:
    """Run the example."""
    disable_progress_bar()
    torch.set_num_threads(1)  # the workers have the other core
    run(_settings(), Console(stderr=True))


if __name__ == "__main__":
    main()
