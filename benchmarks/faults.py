"""Tokens a second that reach the trainer, in peace and under a schedule of faults, with partials off and on.

One fleet serves all windows, in turns: peace and faults, each with `keep_partials=0` and `keep_partials=S` in every
job. A window is counted once all batches that were submitted before it are answered. The trainer has so many batches
under way all the time, and counts a group's tokens when it has read the group. In the end every batch is audited:
nothing lost, nothing twice, all tokens there. A schedule has a fault a line, as the default's, which `--show` prints.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.engine.saturation import prepare
from benchmarks.support import report
from benchmarks.support.lanes import Load, Trainer, audited
from benchmarks.support.models import NAMES, make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.strikes import Strike, StruckFleet, read_schedule, schedule
from rollstream import AsyncClient
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.policies.live_workers import live_reports
from rollstream.schemas import Keys
from rollstream.schemas.worker_report import WorkerState

POLICY = "faults"
PEACE, FAULTS = "peace", "faults"
_LOOK_S = 0.05
_START_LIMIT_S = 400
_END_LIMIT_S = 300
_GROUP = b"group"


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one window saw."""

    arm: str
    seconds: float
    tokens: int
    resumed: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second that reached the trainer."""
        return self.tokens / self.seconds


async def measure(
    fleet: StruckFleet,
    load: Load,
    strikes: Sequence[Strike],
    *,
    lasts: Mapping[str, float],
    keep_s: float,
    repeats: int,
) -> Report:
    """All windows, and the audit after them. `lasts`: the seconds of a window in peace and of one with faults."""
    url, keys = fleet.server.url, Keys(POLICY)
    windows: list[Window] = []
    async with AsyncClient(url, policy=POLICY, reconnect_s=120) as client, Redis.from_url(url) as redis:
        trainer = Trainer(client=client, load=load)
        async with asyncio.TaskGroup() as tasks:
            tending = tasks.create_task(_tend(fleet))
            training = tasks.create_task(trainer.run())
            for number, (kind, keep) in itertools.product(range(repeats), arms(keep_s)):
                trainer.keep = keep
                await trainer.renewed()
                await _serving(fleet, redis, keys)
                arm = f"{kind}, partials every {keep:g} s" if keep else kind
                windows.append(await _window(arm, fleet, trainer, strikes if kind == FAULTS else (), lasts[kind]))
                report.say(f"round {number + 1}: {arm}: {windows[-1].tokens_per_s:,.0f} tok/s")
            trainer.ending = True
            async with asyncio.timeout(_END_LIMIT_S):
                await training
            tending.cancel()
    async with Redis.from_url(url) as redis:  # the other's connections may be of a server that was killed
        audit = await audited(redis, keys, trainer)
    return _report(windows, fleet, trainer, strikes, audit, asdict(load))


def arms(keep_s: float) -> list[tuple[str, float]]:
    """Peace and faults, without partials and with them."""
    return [(PEACE, 0.0), (PEACE, keep_s), (FAULTS, 0.0), (FAULTS, keep_s)]


async def _window(arm: str, fleet: StruckFleet, trainer: Trainer, strikes: Sequence[Strike], seconds: float) -> Window:
    began, tokens, resumed, waiting = time.monotonic(), trainer.tokens, trainer.resumed, list(strikes)
    while (passed := time.monotonic() - began) < seconds:
        while waiting and passed >= waiting[0].at * seconds:
            report.say(f"  {waiting[0]}")
            fleet.strike(waiting.pop(0))
        await asyncio.sleep(_LOOK_S)
    return Window(arm=arm, seconds=passed, tokens=trainer.tokens - tokens, resumed=trainer.resumed - resumed)


async def _tend(fleet: StruckFleet) -> None:
    """Undo faults and start workers, for as long as the trainer lives."""
    while True:
        fleet.tend()
        await asyncio.sleep(_LOOK_S)


async def _serving(fleet: StruckFleet, redis: Redis, keys: Keys) -> None:
    """Wait until nothing is to be undone and every worker serves. Raises `TimeoutError`."""
    async with asyncio.timeout(_START_LIMIT_S):
        while not (fleet.quiet and await _all_serve(fleet, redis, keys)):  # noqa: ASYNC110 - other processes' states
            await asyncio.sleep(_LOOK_S)


async def _all_serve(fleet: StruckFleet, redis: Redis, keys: Keys) -> bool:
    try:
        reports = await live_reports(redis, keys)
    except RedisError:  # it was killed and is started again
        return False
    names = [name for name, one in reports.items() if one.state == WorkerState.SERVING]
    return all(any(pid in name for name in names) for pid in fleet.pids)


def _report(
    windows: list[Window], fleet: StruckFleet, trainer: Trainer, strikes: Sequence[Strike],
    audit: dict[str, int], load: dict[str, Any],
) -> Report:  # fmt: skip
    runs: dict[str, list[float]] = {}
    for window in windows:
        runs.setdefault(window.arm, []).append(window.tokens_per_s)
    details = {
        "audit": audit, "errors": dict(trainer.errors), "struck": dict(fleet.struck), "starts": fleet.starts,
        "resumed_tokens": {arm: sum(one.resumed for one in windows if one.arm == arm) for arm in runs},
        "window_s": {one.arm: round(one.seconds, 1) for one in windows},
    }  # fmt: skip
    about = f"{len(fleet.environments)} workers, {load['batches']} batches of {load['prompts']} prompts under way"
    scenario = Scenario("tokens that reach the trainer", about, "tok/s", PEACE, runs, details)
    return Report("faults", [scenario], {"load": load, "schedule": [str(one) for one in strikes]})


def _flags(arguments: argparse.Namespace, folder: Path) -> tuple[list[str], int]:
    """The flags of each worker, and how many ids its model has."""
    common = [
        "--lease-s", f"{arguments.lease_s:g}", "--grace-s", "0", "--max-num-seqs", str(arguments.max_num_seqs),
        "--max-deliveries", "20", "--max-interruptions", "20",
    ]  # fmt: skip
    if arguments.model == "stub":
        return [*common, "--engine", "stub", "--stub-tokens-per-s", f"{arguments.stub_tokens_per_s:g}"], 500
    model = make(arguments.model, folder)
    engine_args = dict(model.engine_args)
    flags = [
        "--model",
        str(model.folder),
        "--dtype",
        engine_args.pop("dtype"),
        "--max-model-len",
        str(model.max_model_len),
    ]
    flags += [part for name, value in engine_args.items() for part in ("--engine-args", f"{name}={value}")]
    size = ("--kv-cache-bytes", str(arguments.kv_cache_bytes)) if arguments.kv_cache_bytes else ()
    return [*common, *flags, *size, "--gpu-memory-utilization", f"{arguments.memory:g}"], model.vocabulary


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("stub", *NAMES), default="stub", help="stub: no model (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--gpus", nargs="+", metavar="N", help="GPUs that the workers share out, such as 0 1")
    parser.add_argument("--seconds", type=float, default=60, help="of a window with faults (%(default)s)")
    parser.add_argument("--peace-seconds", type=float, help="of a window in peace; default: the same")
    parser.add_argument("--repeats", type=int, default=2, help="windows of each arm (%(default)s)")
    parser.add_argument("--keep-partials", type=float, default=5, metavar="S", help="default: %(default)s")
    parser.add_argument("--batches", type=int, default=16, help="under way all the time (%(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="of a batch (%(default)s)")
    parser.add_argument("--n", type=int, default=8, help="completions of a prompt (%(default)s)")
    parser.add_argument("--new-tokens", type=int, default=800, help="of a completion (%(default)s)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="of a worker (%(default)s)")
    parser.add_argument("--lease-s", type=float, default=6, help="the workers' lease (%(default)s)")
    parser.add_argument("--stub-tokens-per-s", type=float, default=100, help="of one sequence (%(default)s)")
    parser.add_argument("--memory", type=float, default=0.2, help="share of a GPU that a worker takes (%(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, help="KV cache of a worker, instead of --memory")
    parser.add_argument("--schedule", type=Path, help="file with a fault a line; default: every kind of fault")
    parser.add_argument("--show", action="store_true", help="print the schedule and end")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark. Exit code 1 if the audit finds anything."""
    arguments = _arguments()
    strikes = schedule(arguments.lease_s, arguments.workers)
    if arguments.schedule is not None:
        strikes = read_schedule(arguments.schedule.read_text(), arguments.workers)
    if arguments.show:
        sys.stdout.write("".join(f"{one}\n" for one in strikes))
        return 0
    prepare(arguments.model)
    logging.getLogger("rollstream").setLevel(logging.ERROR)  # batches are meant to wait
    lasts = {PEACE: arguments.peace_seconds or arguments.seconds, FAULTS: arguments.seconds}
    gpus = arguments.gpus or []
    where = [{"CUDA_VISIBLE_DEVICES": gpus[which % len(gpus)]} if gpus else {} for which in range(arguments.workers)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-bench-")))
        server = stack.enter_context(EmbeddedRedis(appendonly=True))
        flags, vocabulary = _flags(arguments, folder)
        load = Load(
            batches=arguments.batches, prompts=arguments.prompts, n=arguments.n, new_tokens=arguments.new_tokens,
            vocabulary=vocabulary,
        )  # fmt: skip
        fleet = stack.enter_context(
            StruckFleet(server=server, policy=POLICY, folder=folder, flags=flags, environments=where)
        )
        done = asyncio.run(
            measure(
                fleet, load, strikes, lasts=lasts, keep_s=arguments.keep_partials, repeats=arguments.repeats,
            )
        )  # fmt: skip
    report.finish(done, arguments.out)
    details = done.scenarios[0].details
    sys.stdout.write(f"audit: {details['audit']}, errors: {details['errors'] or 'none'}\n")
    return int(bool(details["errors"]) or any(details["audit"][name] for name in ("lost", "twice", "wrong")))


if __name__ == "__main__":
    sys.exit(main())
