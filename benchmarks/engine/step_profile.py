"""Where a step's time goes with and without log-probs: kernels of the GPU by vLLM's profiler, Python by `py-spy`.

One engine of a worker samples many sequences at once. For each arm the tokens a second are measured first, with nothing
else on; then torch's profiler watches a few hundred steps, and `py-spy` (where it is installed) this process and
EngineCore's. What is printed is per step: wall time, time in which the GPU was busy, and the kernels that differ.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.engine.candidates import CONFIGS, Sampling
from benchmarks.engine.saturation import Engines, prepare
from benchmarks.support import report
from benchmarks.support.models import NAMES, make
from benchmarks.support.workload import Load, Prompts, Workload, config

ARMS = ("no log-probs", "log-probs", "top_logprobs=20")


@dataclass(frozen=True)
class Kernels:
    """What a trace says of the GPU, in microseconds."""

    wall: float
    busy: float
    by_name: dict[str, float]
    steps: int

    def per_step(self) -> dict[str, Any]:
        """Milliseconds a step."""
        most = Counter(self.by_name).most_common(25)
        return {
            "steps": self.steps,
            "wall_ms": round(self.wall / self.steps / 1000, 3),
            "busy_ms": round(self.busy / self.steps / 1000, 3),
            "kernels_ms": {name[:90]: round(us / self.steps / 1000, 4) for name, us in most},
        }


def kernels_of(trace: Path, marker: str) -> Kernels:
    """Read a trace; `marker` is part of the name of a kernel that runs once a step."""
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    found = [e for e in events if e.get("ph") == "X" and e.get("cat") in {"kernel", "gpu_memcpy", "gpu_memset"}]
    by_name: dict[str, float] = defaultdict(float)
    for event in found:
        by_name[event["name"]] += event["dur"]
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in found)
    busy, end = 0.0, 0.0
    for began, ended in spans:
        busy += max(0.0, ended - max(began, end))
        end = max(end, ended)
    if not spans:
        return Kernels(wall=0.0, busy=0.0, by_name={}, steps=1)
    steps = sum(marker in event["name"] for event in found) or 1
    return Kernels(wall=spans[-1][1] - spans[0][0], busy=busy, by_name=by_name, steps=steps)


def _spy(name: str, out: Path, seconds: int) -> list[subprocess.Popen[bytes]]:
    """Record the Python stacks of this process and of EngineCore's."""
    program = shutil.which("py-spy")
    if program is None:
        return []
    me = psutil.Process()
    watched = {"frontend": me.pid}
    for child in me.children(recursive=True):
        if any(word in " ".join(child.cmdline()) or word in child.name() for word in ("EngineCore", "spawn_main")):
            watched[f"child-{child.pid}"] = child.pid
    return [
        subprocess.Popen(
            [program, "record", "-r", "200", "-d", str(seconds), "-f", "raw", "-p", str(pid), "-o",
             str(out / f"{name}-{who}.txt".replace(" ", "_").replace("=", ""))],
            stdout=subprocess.DEVNULL, stderr=sys.stderr,
        )
        for who, pid in watched.items()
    ]  # fmt: skip


def _read(traces: Path, marker: str) -> dict[str, Any]:
    """The newest trace, which is removed with all others: they are large."""
    newest = max(traces.glob("*.json.gz"), key=lambda path: path.stat().st_mtime)
    found = kernels_of(newest, marker).per_step()
    for path in traces.glob("*.json.gz"):
        path.unlink()
    return found


async def _arm(arm: Sampling, workload: Workload, traces: Path, out: Path, flags: argparse.Namespace) -> dict[str, Any]:
    report.say(arm.name)
    await arm.run(workload)
    seconds = [await arm.run(workload) for _ in range(flags.repeats)]
    llm = arm.engine._llm
    running = asyncio.create_task(arm.run(workload))
    await asyncio.sleep(1.0)
    await llm.start_profile()
    await asyncio.sleep(flags.profile_s)
    await llm.stop_profile()
    await running
    profile = await asyncio.to_thread(_read, traces, flags.marker)
    running = asyncio.create_task(arm.run(workload))
    await asyncio.sleep(0.5)
    spies = _spy(arm.name, out, flags.spy_s)
    await running
    for spy in spies:
        await asyncio.to_thread(spy.wait)
    return {"tok_s": [round(workload.tokens / each) for each in seconds], **profile}


async def measure(flags: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Run the arms, one after the other, on one engine."""
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    model, traces = make(flags.model, root), root / "traces"
    traces.mkdir()
    profiler = {
        "profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False,
        "ignore_frontend": True,
    }  # fmt: skip
    settings = Engines(model, flags.max_num_seqs, flags.kv_cache_bytes, flags.memory).settings()
    engine_args = {**settings.engine_args, "profiler_config": profiler}
    engine = VllmEngine(settings.model_copy(update={"engine_args": engine_args}))
    await engine.start()
    count = max(1, flags.max_num_seqs // 8)
    load = Load(Prompts(model, (32, 256) if flags.model != "tiny" else (4, 32)).draw(count), config(flags.tokens))
    workload = Workload("profile", f"{count} prompts, n = 8, {flags.tokens} tokens", (load,))
    out = flags.out.parent if flags.out else root
    try:
        arms = [Sampling(name, engine, CONFIGS[name]) for name in ARMS]
        return {arm.name: await _arm(arm, workload, traces, out, flags) for arm in arms}
    finally:
        await engine.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.step_profile", description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="1.5b", help="default: %(default)s")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="sequences at once (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=700, help="tokens of each sequence (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs without a profiler (default: %(default)s)")
    parser.add_argument("--profile-s", type=float, default=2.0, help="seconds under torch's profiler (%(default)s)")
    parser.add_argument("--spy-s", type=int, default=5, help="seconds under py-spy (default: %(default)s)")
    parser.add_argument("--marker", default="gumbel", help="part of the name of a kernel of each step (%(default)s)")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU's memory (default: %(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, help="KV cache, instead of --memory")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes; py-spy's files go beside it")
    flags = parser.parse_args()
    prepare(flags.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder:
        began = time.perf_counter()
        found = uvloop.run(measure(flags, Path(folder)))
    report.say(f"{time.perf_counter() - began:.0f} s")
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if flags.out:
        flags.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
