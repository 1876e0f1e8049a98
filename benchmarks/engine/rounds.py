"""How long an engine stands still while weights come from a trainer's GPU, and what a trainer that dies leaves behind.

A trainer of its own process and GPU holds the model, changes all its weights, and leads a round; the engine on the next
GPU samples as many sequences as asked for meanwhile. Each round's weights are compared with the trainer's log-probs.

    python -m benchmarks.engine.rounds --model 7b --sequences 256

With `--backend ipc` both share one GPU. On a CPU: `--model tiny --backend gloo --sequences 16`, or `ipc`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.round_trainer import POLICY, ROWS, SHA256, WORKER, Trainer, say, train
from benchmarks.support.models import Model, make
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import GenerationConfig, Keys, Probe, decode
from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine, Score
from rollstream.worker.errors import RoundMissedError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.requests import GenerateRequest
from rollstream.worker.rounds.receiver import RoundReceiver
from rollstream.worker.versions.proof import Proof, proof_of
from rollstream.worker.weights.checkpoint import read_content

_numbers = itertools.count()


class NoStore(CheckpointSupply):
    """Files that never come: between two rounds the engine loads its boot model."""

    async def prepare(self, wanted: Wanted) -> Prepared:
        """Never returns."""
        await asyncio.Event().wait()
        raise AssertionError(wanted)


class Load:
    """Sequences that are sampled all the time."""

    def __init__(self, engine: Engine, sequences: int, vocabulary: int) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self.tokens = 0
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(sequences)]

    async def _run(self, number: int) -> None:
        generator = np.random.default_rng(number)
        most = self._engine.info.max_model_len - 200
        while True:
            prompt = generator.integers(3, self._vocabulary, 64).tolist()
            config = GenerationConfig(max_new_tokens=int(generator.integers(most // 2, most)), ignore_eos=True)
            name = f"load/{next(_numbers)}"
            request = GenerateRequest(
                request_id=name, prompt=prompt, config=config, stop_token_ids=(), seed=None, adapter=None
            )
            (found,) = await self._engine.generate(request)
            self.tokens += len(found.token_ids)

    async def end(self) -> None:
        """Abort them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def measure(flags: argparse.Namespace, model: Model, redis_url: str) -> dict[str, Any]:
    """The worker's side."""
    trainer = await Trainer.start(flags, model.folder, redis_url)
    if flags.backend == "nccl":
        os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    engine = VllmEngine(
        WorkerSettings(
            policy=POLICY,
            model=model.folder,
            dtype=model.engine_args["dtype"],
            max_num_seqs=flags.sequences + ROWS,  # a probe need not wait until a sequence has ended
            max_model_len=model.max_model_len,
            weight_transfer=flags.backend,
            weights="redis",
            gpu_memory_utilization=flags.memory,
            engine_args=flags.engine_args,
        )
    )
    await engine.start()
    await trainer.hear()
    content = await asyncio.to_thread(read_content, model.folder)
    redis = connect(redis_url)
    receiver = RoundReceiver(
        redis=redis,
        keys=Keys(POLICY),
        consumer=WORKER,
        backend=flags.backend,
        engine=engine,
        checkpoints=NoStore(folder=None),
    )
    load = Load(engine, flags.sequences, model.vocabulary)
    await asyncio.sleep(flags.warm_s)
    rounds = []
    for number in range(flags.repeats):
        rounds.append(await _round(engine, receiver, trainer, 2 * number + 1, proves=number % 2 == 0))
        await engine.lost(2 * number + 1)  # its files never come here, so nothing waits for them
        await engine.load_checkpoint(2 * number + 2, model.folder, "keep", content)
        say(rounds[-1])
        await asyncio.sleep(flags.warm_s)
    broken = await _broken(engine, receiver, trainer, 2 * flags.repeats + 1)
    say(broken)
    await load.end()
    await receiver.aclose()
    await engine.close()
    await redis.aclose()
    paused = [one["paused_s"] for one in rounds]
    return {
        "model": model.name,
        "sequences": flags.sequences,
        "backend": flags.backend,
        "rounds": rounds,
        "paused_s_median": statistics.median(paused),
        "paused_s_largest": max(paused),
        "broken": broken,
    }


async def _round(
    engine: Any, receiver: RoundReceiver, trainer: Trainer, version: int, *, proves: bool
) -> dict[str, Any]:
    await trainer.ask(version)
    told = await trainer.hear()
    probe = decode(base64.b64decode(told["probe"]), Probe)
    proofs: list[Proof] = []

    async def prove(score: Score) -> None:
        proofs.append(await proof_of(probe, version, engine.info, score))

    began = time.monotonic()
    with _linking(engine) as linked:
        paused_s = await receiver.receive(_wanted(version), "keep", prove if proves else None)
    took = time.monotonic() - began
    outcome = await trainer.hear()
    if not proves:
        await prove(engine.score)
    return {
        "version": version,
        "proven_in_the_pause": proves,
        "paused_s": round(paused_s, 4),
        "linking_s": round(linked[0], 3),
        "from_announcement_s": round(took, 3),
        "bytes": told["bytes"],
        "proof": str(proofs[0]),
        "received": outcome["received"],
    }


async def _broken(engine: Any, receiver: RoundReceiver, trainer: Trainer, version: int) -> dict[str, Any]:
    """A trainer that is killed after three chunks: what serves then, and after how long."""
    before = await _scored(engine)
    served = engine.policy_version
    await trainer.ask(version, dies=True)
    await trainer.hear()
    began = time.monotonic()
    why = ""
    try:
        await receiver.receive(_wanted(version), "keep", None)
    except RoundMissedError as error:
        why = str(error)
    took = time.monotonic() - began
    after = await _scored(engine)
    return {
        "trainer": await trainer.process.wait(),
        "why": why,
        "seconds": round(took, 3),
        "serves_the_old_version": engine.policy_version == served,
        "largest_difference_nats": float(np.abs(before - after).max()),
    }


async def _scored(engine: Any) -> Any:
    from rollstream.worker.requests import ScoreRequest  # noqa: PLC0415 - beside its use

    row = np.random.default_rng(0).integers(3, 500, 256).tolist()
    request = ScoreRequest(request_id=f"row/{next(_numbers)}", token_ids=row, first=1, top_logprobs=0, adapter=None)
    return (await engine.score(request)).logprobs


@contextmanager
def _linking(engine: Any) -> Iterator[list[float]]:
    """How long the engine takes to link."""
    took = [0.0]
    link = engine.link

    async def timed(*incoming: Any) -> None:
        began = time.monotonic()
        await link(*incoming)
        took[0] = time.monotonic() - began

    engine.link = timed
    try:
        yield took
    finally:
        engine.link = link


def _wanted(version: int) -> Wanted:
    return Wanted(version=version, location="none", sha256=SHA256, transport="store")


def flags_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine.rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="7b")
    parser.add_argument("--backend", choices=["nccl", "gloo", "ipc"], default="nccl")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument(
        "--memory", type=float, default=0.6, help="share of the GPU's memory for the engine (%(default)s)"
    )
    parser.add_argument("--warm-s", type=float, default=5.0)
    parser.add_argument("--root", type=Path, default=Path("/dev/shm/rollstream-rounds"))  # noqa: S108 - memory
    parser.add_argument("--engine-args", type=json.loads, default={})
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trainer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Measure, and print what was found as JSON."""
    flags = flags_of()
    if flags.trainer is not None:
        asyncio.run(train(flags))
        return
    model = make(flags.model, flags.root, weights=True)
    with EmbeddedRedis() as redis:
        found = asyncio.run(measure(flags, model, redis.url))
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if flags.json is not None:
        flags.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
