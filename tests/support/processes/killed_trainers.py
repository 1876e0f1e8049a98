"""A small trainer that is killed at each line of its loop in turn, and started again: `python -m
tests.support.processes.killed_trainers` with an order as JSON on stdin; the outcomes come as JSON on stdout.

Trainers and stub workers are forked from one process that has imported both: a start's seconds of CPU are paid once.
Each kill has a policy, and so a worker, of its own, since versions only grow.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch  # noqa: F401 - seconds of CPU, which each trainer would need

import rollstream.producer.rollouts.assemble
import rollstream.worker.app
import rollstream.worker.command
import rollstream.worker.engines.stub  # noqa: F401 - what trainers and workers have of all of them
from rollstream import AsyncClient, BatchHandle, GenerationConfig, RolloutBatch
from rollstream.producer.runs import run as run_module
from rollstream.producer.runs.run import Run
from rollstream.worker.__main__ import main as worker_main
from tests.support.worker_process import ROOT

STEPS, PROMPTS, COMPLETIONS = 2, 2, 2
SAMPLES = PROMPTS * COMPLETIONS
_NEVER = 0


@dataclass(frozen=True)
class Order:
    """What the test asks for."""

    url: str
    policy: str
    models: str
    folder: str
    mode: str
    """`sync`, or `gate`: one batch ahead, admitted by a gate."""
    everywhere: bool
    """Kill at each line of the room `producer/runs` too."""
    every: int
    """Kill at each line that is a multiple of it, counted as they are reached."""
    at_once: int


def prompts(step: int) -> list[list[int]]:
    """No two steps have one in common."""
    return [[10 * step + row + 5] for row in range(PROMPTS)]


def config(step: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=3, num_return_sequences=COMPLETIONS, seed=step)


class Learner:
    """Learns by heart what it was trained on."""

    def __init__(self, checkpoint: str) -> None:
        self.learnt: list[list[Any]] = json.loads(Path(checkpoint).read_text()) if checkpoint else []

    def train(self, rollouts: RolloutBatch) -> None:
        rows = rollouts.sequences.tolist()
        self.learnt += [[row[: rollouts.prompt_len], row[rollouts.prompt_len :]] for row in rows]

    def save(self, path: Path) -> str:
        path.write_text(json.dumps(self.learnt))
        return str(path)


async def train(order: Order, policy: str, folder: Path) -> None:
    async with AsyncClient(order.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        cursor = run.cursor or {"step": 0, "checkpoint": ""}
        learner = Learner(cursor["checkpoint"])
        if cursor["step"]:
            await publish(run, order, cursor["step"])
        ahead = Ahead(run, order.mode, cursor["step"])
        for step in range(cursor["step"], STEPS):
            handle = await ahead.batch(step)
            rollouts = await handle.result(timeout=40)
            learner.train(rollouts)
            checkpoint = learner.save(folder / f"step-{step + 1}.json")
            await run.consumed(rollouts, cursor={"step": step + 1, "checkpoint": checkpoint})
            await publish(run, order, step + 1)
            ahead.advance(step + 1)


async def publish(run: Run, order: Order, version: int) -> None:
    await run.publish_policy(version, checkpoint=Path(order.models) / f"step-{version}")


class Ahead:
    """The batches under way: one at a time, or as many as the gate admits."""

    def __init__(self, run: Run, mode: str, version: int) -> None:
        self._run = run
        self._gate = None
        if mode == "gate":
            self._gate = run.gate(batch_samples=SAMPLES, max_staleness=1, version=version)
        self._left = {one.note["step"]: one for one in run.outstanding}
        self._handles: dict[int, BatchHandle] = {}
        self._next = version

    async def batch(self, step: int) -> BatchHandle:
        if self._gate is None:
            return await self._submit(step, None, min_policy_version=step or None)
        while self._next < STEPS:
            left = self._left.get(self._next)
            if left is not None and left.is_queued:
                self._handles[self._next] = left.handle
            elif left is not None:
                self._handles[self._next] = await self._submit(self._next, left.admitted, batch_id=left.batch_id)
            elif (admitted := self._gate.try_admit(SAMPLES)) is not None:
                self._handles[self._next] = await self._submit(self._next, admitted)
            else:
                break
            self._next += 1
        return self._handles[step]

    async def _submit(self, step: int, admitted: int | None, **terms: Any) -> BatchHandle:
        note = {"step": step}
        return await self._run.submit(prompts(step), None, config(step), admitted=admitted, note=note, **terms)

    def advance(self, version: int) -> None:
        if self._gate is not None:
            self._gate.advance(version)


class Killer:
    """Kills the process at the line that is reached as the `at`-th; counts them."""

    def __init__(self, at: int, everywhere: bool) -> None:
        self.reached = 0
        self._at = at
        self._room = str(Path(run_module.__file__).parent) if everywhere else ""

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        if code is train.__code__ or (self._room and code.co_filename.startswith(self._room)):
            return self._line
        return None

    def _line(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self.reached += 1
            if self.reached == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


def one_trainer(order: Order, policy: str, folder: Path, kill_at: int) -> int:
    """Run a trainer in this process; the number of lines that it reached."""
    killer = Killer(kill_at, order.everywhere)
    sys.settrace(killer)
    asyncio.run(train(order, policy, folder))
    sys.settrace(None)
    return killer.reached


def forked(call: Callable[[], object]) -> int:
    """The process of a child that does `call`, and says on stderr why it failed."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException as error:  # noqa: BLE001 - a task's rim: the process ends
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - for the test's report
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def serve(order: Order, policy: str) -> None:
    """A worker, in this process."""
    out = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(out, number)
    sys.argv = [
        "rollstream-worker", "--policy", policy, "--redis", order.url, "--engine", "stub", "--heartbeat-s", "0.2",
        "--stub-vocab-size", "1000", "--checkpoint-dir", order.models,
    ]  # fmt: skip
    worker_main()


def killed_once(order: Order, number: int, told: Path) -> None:
    """A trainer that is killed, and the one after it, in this process; `told` gets what became of them."""
    policy, folder = f"{order.policy}-{number}", Path(order.folder) / str(number)
    folder.mkdir()
    worker = forked(lambda: serve(order, policy))
    reached = folder / "reached"
    try:
        codes = []
        for kill_at in (number, _NEVER) if number != _NEVER else (_NEVER,):
            trainer = forked(lambda at=kill_at: reached.write_text(str(one_trainer(order, policy, folder, at))))  # type: ignore[misc]
            codes.append(os.waitstatus_to_exitcode(os.waitpid(trainer, 0)[1]))
        outcome = {"policy": policy, "codes": codes, "reached": int(reached.read_text() if reached.exists() else 0)}
        last = folder / f"step-{STEPS}.json"
        told.write_text(json.dumps({**outcome, "learnt": json.loads(last.read_text()) if last.exists() else None}))
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def killed_at(order: Order, numbers: Sequence[int]) -> dict[int, Any]:
    """What became of the trainers that were killed there, by the number of the line."""
    waiting, running = list(numbers), 0
    files = {number: Path(order.folder) / f"{number}.json" for number in numbers}
    while waiting or running:
        if waiting and running < order.at_once:
            number = waiting.pop(0)
            forked(lambda n=number: killed_once(order, n, files[n]))  # type: ignore[misc]
            running += 1
        else:
            os.wait()
            running -= 1
    return {number: json.loads(file.read_text()) if file.exists() else None for number, file in files.items()}


def outcomes(order: Order) -> dict[int, Any]:
    """In the test: those of an undisturbed trainer, under 0, and of one killed at each line."""
    command = [sys.executable, "-m", "tests.support.processes.killed_trainers"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(vars(order)), capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    found = {int(number): outcome for number, outcome in json.loads(done.stdout).items()}
    assert all(found.values()), done.stderr
    return found


if __name__ == "__main__":
    gc.freeze()
    asked = Order(**json.load(sys.stdin))
    undisturbed = killed_at(asked, [_NEVER])
    lines = range(asked.every, undisturbed[_NEVER]["reached"] + 1, asked.every)
    json.dump(undisturbed | killed_at(asked, lines), sys.stdout)
