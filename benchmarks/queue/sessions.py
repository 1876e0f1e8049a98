"""What it saves that a conversation's next turn goes to the worker that has its prefix in its cache.

Real vLLM workers on the CPU serve conversations side by side: each turn adds new ids (`continue_of`), samples a reply
and pauses as if a tool ran. In turns, windows give every conversation a `session`, or none. Measured are the ids of
prompts that vLLM had in its prefix cache, by its own count (blocks of 128 ids on the CPU), and the seconds of a window.
The details have the share that could be had at most: whole blocks of what the turn before had.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import report
from benchmarks.support.arms import WrongOutputError
from benchmarks.support.fleet import Fleet
from benchmarks.support.report import Report, Scenario
from rollstream import AsyncClient, GenerationConfig, GroupResult, Turn
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import SMALL_MODEL_ENV

POLICY = "sessions"
NONE, AFFINITY = "no session", "session"
ARMS = (NONE, AFFINITY)
_BLOCK = 128
_VOCABULARY = 512
_LIMIT_S = 300.0
_PER_CENT = 100


@dataclass(frozen=True, kw_only=True)
class Talks:
    """Conversations that run side by side, all alike."""

    count: int
    turns: int
    first_ids: int
    more_ids: int
    reply_ids: int
    think_s: float
    wait_s: float

    @property
    def most_positions(self) -> int:
        """Ids of the longest conversation."""
        return self.first_ids + (self.turns - 1) * self.more_ids + self.turns * self.reply_ids


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one window of conversations had."""

    seconds: float
    prompt_ids: int
    cached_ids: int
    possible_ids: int
    moved: int
    """Turns that another worker ran than the one before."""
    slowest_s: float
    median_s: float
    """From a turn's submit to its reply."""

    @property
    def share(self) -> float:
        """How many of the ids of all prompts were cached, in per cent."""
        return _PER_CENT * self.cached_ids / self.prompt_ids


async def _talk(client: AsyncClient, talks: Talks, draw: random.Random, session: str | None) -> list[Any]:
    """One conversation: of each turn its result and its seconds."""
    config = GenerationConfig(max_new_tokens=talks.reply_ids, ignore_eos=True, logprobs=None)
    before: Turn | None = None
    told = []
    await asyncio.sleep(draw.uniform(0, talks.think_s))
    for number in range(talks.turns):
        new = [draw.randrange(3, _VOCABULARY) for _ in range(talks.more_ids if number else talks.first_ids)]
        began = time.perf_counter()
        handle = await client.submit(
            [new], None, config, continue_of=[before], session=session, session_wait_s=talks.wait_s
        )
        (answer,) = (await handle.wait(_LIMIT_S)).values()
        if not isinstance(answer, GroupResult):
            raise WrongOutputError(str(answer))
        told.append((answer, time.perf_counter() - began))
        before = Turn(batch_id=handle.batch_id, group=0, sample=0)
        await asyncio.sleep(talks.think_s)
    return told


async def window(client: AsyncClient, talks: Talks, arm: str, seed: int) -> Window:
    """All conversations of one window, with ids that no other window has."""
    began = time.perf_counter()
    found = await asyncio.gather(
        *(
            _talk(client, talks, random.Random(f"{seed} {number}"), uuid.uuid4().hex if arm == AFFINITY else None)
            for number in range(talks.count)
        )
    )
    seconds = time.perf_counter() - began
    each = [answer for told in found for answer, _ in told]
    times = [turn_s for told in found for _, turn_s in told]
    return Window(
        seconds=seconds,
        prompt_ids=sum(answer.prompt.shape[0] for answer in each),
        cached_ids=sum(answer.cached_tokens or 0 for answer in each),
        possible_ids=sum(answer.prefix_length // _BLOCK * _BLOCK for answer in each),
        moved=sum(one.worker != two.worker for told in found for (one, _), (two, _) in itertools.pairwise(told)),
        slowest_s=max(times),
        median_s=statistics.median(times),
    )


async def measure(url: str, workers: int, talks: Talks, repeats: int) -> list[Scenario]:
    """Both arms in turns: their shares of cached ids, and their seconds."""
    found: dict[str, list[Window]] = {arm: [] for arm in ARMS}
    async with AsyncClient(url, policy=POLICY) as client:
        await window(client, talks, NONE, -1)  # all shapes are compiled, all workers warm
        for repeat in range(repeats):
            for arm in ARMS if repeat % 2 == 0 else ARMS[::-1]:
                found[arm].append(one := await window(client, talks, arm, 2 * repeat + ARMS.index(arm)))
                report.say(
                    f"{workers} workers, {arm}: {one.share:.1f} % cached of {one.prompt_ids} ids "
                    f"({_PER_CENT * one.possible_ids / one.prompt_ids:.1f} % possible), {one.moved} turns moved, "
                    f"{one.seconds:.1f} s, a turn {one.median_s:.2f} s, the slowest {one.slowest_s:.2f} s"
                )
    about = (
        f"{workers} workers, {talks.count} conversations of {talks.turns} turns: {talks.first_ids} ids, then "
        f"{talks.more_ids} more each, replies of {talks.reply_ids}, {talks.think_s} s between"
    )
    details = {
        arm: {
            "moved": [one.moved for one in each],
            "possible_percent": [round(_PER_CENT * one.possible_ids / one.prompt_ids, 1) for one in each],
            "turn_median_s": [round(one.median_s, 3) for one in each],
            "turn_slowest_s": [round(one.slowest_s, 3) for one in each],
        }
        for arm, each in found.items()
    }
    shares = {arm: [one.share for one in each] for arm, each in found.items()}
    times = {arm: [one.seconds for one in each] for arm, each in found.items()}
    turns = {arm: [one.median_s for one in each] for arm, each in found.items()}
    return [
        Scenario(f"{workers} workers, cached", about, "%", NONE, shares, details, x=workers),
        Scenario(f"{workers} workers, all turns", about, "s", NONE, times, {}, x=workers),
        Scenario(f"{workers} workers, a turn", about, "s", NONE, turns, {}, x=workers),
    ]


async def _run(numbers: list[int], talks: Talks, repeats: int, flags: list[str]) -> Report:
    found = []
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder, EmbeddedRedis() as server:
        model = write_model(Path(folder) / "model", max_positions=2 * talks.most_positions, vocab_size=_VOCABULARY)
        for number in numbers:
            with Fleet(server.url, Path(folder)) as fleet:
                for _ in range(number):
                    fleet.start(
                        POLICY,
                        "--model",
                        str(model),
                        "--dtype",
                        "float32",
                        "--max-num-seqs",
                        "32",
                        *flags,
                        env=SMALL_MODEL_ENV,
                    )
                for worker in fleet.workers:
                    worker.wait_until_serving()
                found += await measure(server.url, number, talks, repeats)
    return Report("sessions", found)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.sessions", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4], help="(default: 2 4)")
    parser.add_argument("--conversations", type=int, default=6, help="side by side (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=6, help="of each (default: %(default)s)")
    parser.add_argument("--first-ids", type=int, default=512, help="of the first turn (default: %(default)s)")
    parser.add_argument("--more-ids", type=int, default=192, help="of each later turn (default: %(default)s)")
    parser.add_argument("--reply-ids", type=int, default=16, help="sampled by each turn (default: %(default)s)")
    parser.add_argument("--think-s", type=float, default=0.2, help="between two turns (default: %(default)s)")
    parser.add_argument("--wait-s", type=float, default=2.0, help="session_wait_s (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="windows of each arm (default: %(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, default=2**28, help="of each worker (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    given = parser.parse_args()
    talks = Talks(
        count=given.conversations, turns=given.turns, first_ids=given.first_ids, more_ids=given.more_ids,
        reply_ids=given.reply_ids, think_s=given.think_s, wait_s=given.wait_s,
    )  # fmt: skip
    flags = ["--kv-cache-bytes", str(given.kv_cache_bytes)]
    report.finish(asyncio.run(_run(given.workers, talks, given.repeats, flags)), given.out)


if __name__ == "__main__":
    main()
