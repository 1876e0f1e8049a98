"""Tokens a second over HTTP, from vLLM's server and from TRL's, against Rollstream on the same engine arguments.

All serve the same prompts with the same config on one machine, in turns. Token ids go in; padded tensors of token ids
and log-probs come out, in this process. The servers run without Rollstream's plugin. With `--default-kv-cache-bytes`
there is also a server with vLLM's defaults, which has its own limit of sequences.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.engine.saturation import POLICY, Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.http.arms import Completions, Metered, TrlClient
from benchmarks.http.servers import TRL, Server, ServerFailedError, recipes
from benchmarks.support import report
from benchmarks.support.arms import Rollstream, interleaved
from benchmarks.support.fleet import Fleet
from benchmarks.support.models import make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCENARIOS, Workload, workloads
from rollstream import AsyncClient
from rollstream.worker.engines.vllm import setup

TIMEOUT_S = 300.0


async def compare(
    engines: Engines,
    chosen: Sequence[Workload],
    repeats: int,
    replicas: Sequence[int],
    redis_url: str,
    fleet: Fleet,
    folder: Path,
    out: Path | None,
) -> Report:
    """Run every workload on every server that starts, and on a worker for each number in `replicas`.

    All results are written to `out` after each workload.
    """
    settings = {**shown_engines(engines), "load_before": _load(), "servers": {}, "start_s": {}, "left_out": {}}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session())
        started = await _started(engines, folder, session, stack)
        workers = [fleet.start(f"{POLICY}-{count}", *engines.flags(count)) for count in replicas]
        arms = [arm for server, wait in started if (arm := await _arm(server, wait, session, settings)) is not None]
        for count, worker in zip(replicas, workers, strict=True):
            name = "rollstream" if count == 1 else f"rollstream, {count} replicas"
            settings["start_s"][name] = await asyncio.to_thread(worker.wait_until_serving)
            client = await stack.enter_async_context(AsyncClient(redis_url, policy=worker.policy))
            arms.append(Metered(Rollstream(client, name), worker.process.pid))
        await my_turn()
        await interleaved(arms, chosen[0], 1)
        done = Report("http", [], settings)
        for workload in chosen:
            done.scenarios.append(await _measured(arms, workload, repeats))
            if out is not None:
                report.write(out, [done])
    return done


async def _started(
    engines: Engines, folder: Path, session: aiohttp.ClientSession, stack: AsyncExitStack
) -> list[tuple[Server, asyncio.Task[float]]]:
    """Start all servers; returns each with a task that waits until it serves.

    They start together only if the KV cache has an explicit size: otherwise each might count another's memory as free.
    """
    on_cpu = _on_cpu()
    found = []
    for recipe in recipes(engines.settings(), engines.default_kv_cache_bytes, on_cpu=on_cpu):
        server = Server(recipe, engines.model.folder, folder, on_cpu=on_cpu)
        stack.callback(server.end)
        serves = asyncio.create_task(server.wait_until_serving(session))
        found.append((server, serves))
        if engines.kv_cache_bytes is None:
            await asyncio.wait([serves])
    return found


async def _arm(
    server: Server, serves: asyncio.Task[float], session: aiohttp.ClientSession, settings: dict[str, Any]
) -> Metered | None:
    """The arm of a server; None if TRL's does not start, with the reason in `settings`."""
    name = server.recipe.name
    settings["servers"][name] = server.recipe.shown
    try:
        settings["start_s"][name] = await serves
    except ServerFailedError as error:
        if server.recipe.program != TRL:
            raise
        sys.stderr.write(f"{error}\n")
        settings["left_out"][name] = str(error).splitlines()[-1]
        return None
    is_trl = server.recipe.program == TRL
    arm = await asyncio.to_thread(TrlClient, name, server) if is_trl else Completions(name, server, session)
    return Metered(arm, server.process.pid)


def _load() -> list[float]:
    return [round(one, 1) for one in os.getloadavg()]


def _on_cpu() -> bool:
    setup.prepare_environment(os.environ)
    from vllm.platforms import current_platform  # noqa: PLC0415 - it reads the environment

    return bool(current_platform.is_cpu())


def _session() -> aiohttp.ClientSession:
    """A session without a limit of connections: all prompts are under way at once, as in Rollstream.

    vLLM's server closes a connection that was idle for 5 s. The client must close it before, or the next request might
    be lost.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def _measured(arms: list[Metered], workload: Workload, repeats: int) -> Scenario:
    for arm in arms:
        arm.take()
    runs = await interleaved(arms, workload, repeats)
    cpu = {arm.name: arm.take() for arm in arms}
    details = {"tokens": workload.tokens, "cpu_s_of_all_runs": cpu, "load_after": _load()}
    return Scenario(workload.name, workload.about, "tok/s", arms[0].name, runs, details)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http.serve", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeat for several; default: all")
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[1], metavar="N", help="a worker for each number (default: 1)"
    )
    parser.add_argument("--default-kv-cache-bytes", type=int, help="of a server with vLLM's defaults; default: none")
    arguments = parser.parse_args()
    if len(set(arguments.replicas)) < len(arguments.replicas):
        parser.error("--replicas: each number once")
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        default_kv = arguments.default_kv_cache_bytes
        engines = Engines(
            model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory, default_kv_cache_bytes=default_kv
        )
        known = workloads(model, scale=arguments.scale)
        chosen = [known[name] for name in arguments.scenario or SCENARIOS]
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            done = uvloop.run(
                compare(engines, chosen, arguments.repeats, arguments.replicas, url, fleet, folder, arguments.out)
            )
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
