"""Tokens a second that reach the trainer, in peace and under a schedule of faults, with partials off and on.

One fleet serves all windows, in turns: peace and faults, each with `keep_partials=0` and `keep_partials=S` in every
job. A window begins once every worker serves and all batches under way are of its arm. The trainer has so many batches
under way all the time, and counts a group's tokens when it has read the group. In the end every batch is audited:
nothing lost, nothing twice, all tokens there. A schedule has a fault a line, as the default's, which `--show` prints.

Each window is told as it ends, and written to `--out`. `--limit-s` ends the whole: windows that do not fit into it are
left out, and a wait that takes longer says what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from redis.asyncio import Redis

from benchmarks.engine.saturation import prepare
from benchmarks.support import report
from benchmarks.support.bounds import Limit, TooLongError
from benchmarks.support.lanes import Load, Trainer, audited
from benchmarks.support.models import NAMES, make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.strikes import Strike, StruckFleet, read_schedule, schedule
from benchmarks.support.windows import Windows
from rollstream import AsyncClient
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Keys

POLICY = "faults"
PEACE, FAULTS = "peace", "faults"
ARMS = (PEACE, FAULTS, f"{PEACE}+partials", f"{FAULTS}+partials")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a window is like."""

    kind: str
    keep: float
    """Seconds between two times that running completions are kept; 0: never."""

    @classmethod
    def of(cls, name: str, keep_s: float) -> Arm:
        """The arm of this name, of `ARMS`."""
        kind, _, partials = name.partition("+")
        return cls(kind=kind, keep=keep_s if partials else 0.0)

    def __str__(self) -> str:
        return f"{self.kind}, partials every {self.keep:g} s" if self.keep else self.kind


async def measure(
    fleet: StruckFleet,
    load: Load,
    strikes: Sequence[Strike],
    *,
    arms: Sequence[Arm],
    lasts: Mapping[str, float],
    limit: Limit,
    write: Callable[[Report], None],
) -> Report:
    """All windows, and the audit after them. `lasts`: the seconds of a window in peace and of one with faults.

    The report of a run that a wait has ended has what was measured until then, and the problem.
    """
    url, keys, problem = fleet.server.url, Keys(POLICY), ""
    async with AsyncClient(url, policy=POLICY, reconnect_s=120) as client, Redis.from_url(url) as redis:
        trainer = Trainer(client=client, load=load)
        windows = Windows(fleet=fleet, trainer=trainer, redis=redis, keys=keys, limit=limit)
        told = partial(_report, windows, strikes)
        async with asyncio.TaskGroup() as tasks:
            tending = tasks.create_task(windows.tend())
            try:
                await windows.serving()
                await _measured(windows, strikes, arms, lasts, tasks, lambda: write(told({}, problem)))
            except TooLongError as error:
                problem = str(error)
                limit.say(problem)
            tending.cancel()
    async with Redis.from_url(url) as redis:  # the other's connections may be of a server that was killed
        audit = await audited(redis, keys, trainer)
    return told(audit, problem)


async def _measured(
    windows: Windows, strikes: Sequence[Strike], arms: Sequence[Arm], lasts: Mapping[str, float],
    tasks: asyncio.TaskGroup, write: Callable[[], None],
) -> None:  # fmt: skip
    trainer, of = windows.trainer, None
    trainer.keep = arms[0].keep
    training = tasks.create_task(trainer.run())
    try:
        for arm in arms:
            if arm.keep != of:
                await windows.renewed(arm.keep)
                of = arm.keep
            await windows.serving()
            if await windows.open(str(arm), strikes if arm.kind == FAULTS else (), lasts[arm.kind]) is not None:
                write()
        await windows.ended(training)
    finally:
        training.cancel()


def _report(windows: Windows, strikes: Sequence[Strike], audit: dict[str, int], problem: str) -> Report:
    fleet, trainer, found = windows.fleet, windows.trainer, windows.found
    load, runs = trainer.load, dict[str, list[float]]()
    for window in found:
        runs.setdefault(window.arm, []).append(window.tokens_per_s)
    details = {
        "audit": audit, "errors": dict(trainer.errors), "struck": dict(fleet.struck), "starts": fleet.starts,
        "ended_by_themselves": fleet.ended.total(), "problem": problem,
        "resumed_tokens": {arm: sum(one.resumed for one in found if one.arm == arm) for arm in runs},
        "window_s": {one.arm: round(one.seconds, 1) for one in found},
    }  # fmt: skip
    about = f"{len(fleet.environments)} workers, {load.batches} batches of {load.prompts} prompts under way"
    baseline = PEACE if PEACE in runs else next(iter(runs), PEACE)
    scenario = Scenario("tokens that reach the trainer", about, "tok/s", baseline, runs, details)
    return Report("faults", [scenario], {"load": asdict(load), "schedule": [str(one) for one in strikes]})


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
    told = [*(f"{name}={value}" for name, value in engine_args.items()), *arguments.engine_args]
    flags += [part for one in told for part in ("--engine-args", one)]
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
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="in this order (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="windows of each arm (%(default)s)")
    parser.add_argument("--limit-s", type=float, default=1800, help="of the whole; then it ends (%(default)s)")
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
    parser.add_argument("--engine-args", nargs="+", default=(), metavar="NAME=VALUE", help="for the workers' vLLM")
    parser.add_argument("--schedule", type=Path, help="file with a fault a line; default: every kind of fault")
    parser.add_argument("--show", action="store_true", help="print the schedule and end")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark. Exit code 1 if the audit finds anything, or a wait took too long."""
    arguments = _arguments()
    strikes = schedule(arguments.lease_s, arguments.workers)
    if arguments.schedule is not None:
        strikes = read_schedule(arguments.schedule.read_text(), arguments.workers)
    if arguments.show:
        sys.stdout.write("".join(f"{one}\n" for one in strikes))
        return 0
    limit = Limit(seconds=arguments.limit_s)
    limit.end_hard_when_hung()
    prepare(arguments.model)
    logging.getLogger("rollstream").setLevel(logging.ERROR)  # batches are meant to wait
    done = _run(arguments, strikes, limit)
    report.finish(done, arguments.out)
    details = done.scenarios[0].details
    sys.stdout.write(f"audit: {details['audit']}, errors: {details['errors'] or 'none'}\n")
    if details["problem"]:
        sys.stdout.write(f"ended early: {details['problem']}\n")
    found = any(details["audit"][name] for name in ("lost", "twice", "wrong", "unanswered"))
    return int(found or bool(details["errors"] or details["problem"]))


def _run(arguments: argparse.Namespace, strikes: Sequence[Strike], limit: Limit) -> Report:
    lasts = {PEACE: arguments.peace_seconds or arguments.seconds, FAULTS: arguments.seconds}
    gpus = arguments.gpus or []
    where = [{"CUDA_VISIBLE_DEVICES": gpus[which % len(gpus)]} if gpus else {} for which in range(arguments.workers)]
    arms = [Arm.of(name, arguments.keep_partials) for _ in range(arguments.repeats) for name in arguments.arms]
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
        write = partial(_write, arguments.out)
        return asyncio.run(measure(fleet, load, strikes, arms=arms, lasts=lasts, limit=limit, write=write))


def _write(out: Path | None, so_far: Report) -> None:
    if out is not None:
        report.write(out, [so_far])


if __name__ == "__main__":
    sys.exit(main())
