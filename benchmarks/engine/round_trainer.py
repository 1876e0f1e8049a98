"""The trainer of `rounds`: a process of its own that leads a round when it is told to, and its end in the parent."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.rounds.lead import RoundLeader, meeting_of
from rollstream.producer.rounds.outgoing import Outgoing
from rollstream.producer.rounds.round_options import RoundOptions
from rollstream.schemas import Keys, Probe, Tensor, encode
from rollstream.transport.rounds.links import Link

POLICY, WORKER = "rounds", "bench"
SHA256 = "0" * 64
ROWS, ROW = 4, 128


class DyingLink:
    """Kills the trainer's process after a few broadcasts."""

    def __init__(self, link: Link, left: int) -> None:
        self._link, self._left = link, left
        self.aborted = False

    def broadcast(self, tensor: Any, src: int = 0, stream: Any = None) -> None:
        """As `Link.broadcast`."""
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._link.broadcast(tensor, src, stream)

    def abort(self) -> None:
        """As `Link.abort`."""
        self._link.abort()

    def close(self) -> None:
        """As `Link.close`."""
        self._link.close()


class Dying(Outgoing):
    """Dies in the middle of sending."""

    def send(self, link: Link) -> None:
        """As `Outgoing.send`, up to a point."""
        super().send(DyingLink(link, 3))


async def train(flags: argparse.Namespace) -> None:
    """The trainer's process: one round for each line that it reads."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    on_gpu = flags.backend != "gloo" and torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(flags.trainer, dtype=dtype).to(device).eval()
    say({"ready": True})
    connection, keys = Connection(access=flags.redis, reconnect_s=10), Keys(POLICY)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        with torch.no_grad():
            torch.manual_seed(asked["version"])
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.002)
            probe = _probe(model, asked["version"])
        # A tied output layer is the embedding's memory: it is sent once.
        tensors = dict(model.named_parameters())
        load = (Dying if asked["dies"] else Outgoing)(tensors=tensors, backend=flags.backend)
        leader = RoundLeader(
            connection=connection,
            keys=keys,
            version=asked["version"],
            sha256=SHA256,
            load=load,
            meeting=meeting_of(flags.backend, "127.0.0.1", 60, load.device),
            options=RoundOptions(backend=flags.backend, join_s=10, timeout_s=60),
        )
        await leader.open()
        say({"probe": base64.b64encode(encode(probe)).decode(), "bytes": load.sent.num_bytes})
        outcome = await leader.lead(frozenset({WORKER}))
        say({"received": outcome.received, "why": outcome.why, "seconds": outcome.seconds})
    await connection.aclose()


def _probe(model: Any, seed: int) -> Probe:
    import torch  # noqa: PLC0415 - heavy

    ids = torch.from_numpy(np.random.default_rng(seed).integers(3, 500, (ROWS, ROW)))
    logits = model(ids.to(model.device)).logits.float()[:, :-1].log_softmax(-1)
    known = logits.gather(-1, ids[:, 1:, None].to(model.device))[..., 0]
    return Probe(
        token_ids=Tensor.of(ids.flatten().numpy().astype(np.int32)),
        row_lengths=Tensor.of(np.full(ROWS, ROW, np.int32)),
        logprobs=Tensor.of(known.flatten().cpu().numpy().astype(np.float32)),
        vocab_size=int(model.config.vocab_size),
    )


class Trainer:
    """The trainer's process, from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._to: Any = process.stdin
        self._from: Any = process.stdout

    @classmethod
    async def start(cls, flags: argparse.Namespace, folder: Path, redis_url: str) -> Trainer:
        """Start it, over NCCL on the first GPU, else on those that the engine sees; do not wait for it."""
        command = (
            sys.executable, "-m", "benchmarks.engine.rounds", "--trainer", str(folder), "--redis", redis_url,
            "--backend", flags.backend,
        )  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"} if flags.backend == "nccl" else None
        return cls(
            await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment, limit=2**24)
        )

    async def ask(self, version: int, *, dies: bool = False) -> None:
        """Let it lead a round."""
        self._to.write(json.dumps({"version": version, "dies": dies}).encode() + b"\n")
        await self._to.drain()

    async def hear(self) -> dict[str, Any]:
        """What it says next."""
        while line := await asyncio.wait_for(self._from.readline(), 300):
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError("the trainer has ended")


def say(told: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
